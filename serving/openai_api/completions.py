"""Generation behind both completion endpoints: checks, whole answers, and streams of text."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse

from cluster.contracts.records import GenerateRequest, SamplingParams
from serving.openai_api.backend import AppSettings, Backend
from serving.openai_api.detokenize import TextStream
from serving.openai_api.errors import ApiError, Overloaded, check_model
from serving.openai_api.requests import ChatCompletionRequest, CompletionRequest
from serving.openai_api.responses import Answer, Piece, Shape, sse_event, usage_of, version_mark

SEED_RANGE = 1 << 63
logger = logging.getLogger(__name__)


class Completions:
    """What both completion endpoints share: checks, generation, one JSON body or a stream of events."""

    def __init__(self, backend: Backend, tokenizer: Any, settings: AppSettings) -> None:
        self._backend, self._tokenizer, self._settings = backend, tokenizer, settings

    async def answer(
        self, body: ChatCompletionRequest | CompletionRequest, prompts: list[list[int]], shape: Shape
    ) -> JSONResponse | StreamingResponse:
        check_model(body.model, self._settings.policy_name)
        requests = await self._requests(body, prompts)
        envelope = {
            "id": f"{shape.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self._settings.policy_name,
        }
        prompt_tokens = sum(map(len, prompts))
        if body.stream:
            return await self._streamed(body, requests, shape, envelope, prompt_tokens)
        async with asyncio.timeout(self._settings.limits.request_timeout_s):
            answers = await self._whole(requests, body.stop)
        choices = [
            {"index": index, **shape.choice(answer), "finish_reason": answer.finish_reason}
            for index, answer in enumerate(answers)
        ]
        usage = usage_of(prompt_tokens, sum(len(answer.token_ids) for answer in answers))
        version = max(answer.version for answer in answers)
        return JSONResponse(
            {
                **envelope,
                "object": shape.kind,
                "choices": choices,
                "usage": usage,
                "system_fingerprint": version_mark(version),
            }
        )

    async def _requests(
        self, body: ChatCompletionRequest | CompletionRequest, prompts: list[list[int]]
    ) -> list[GenerateRequest]:
        """`n` requests for each prompt, in order. A seed gives each its own, in the same way every time."""
        limits = self._settings.limits
        if len(prompts) * body.n > limits.max_choices:
            raise ApiError(400, f"{len(prompts) * body.n} choices asked for; at most {limits.max_choices}", param="n")
        allowed = await self._backend.max_model_len()
        requests: list[GenerateRequest] = []
        for prompt in prompts:
            room = allowed - len(prompt)
            asked = body.answer_limit
            if not prompt:
                raise ApiError(400, "the prompt is empty", param="prompt")
            if room < (asked or 1):
                raise ApiError(
                    400,
                    f"the prompt has {len(prompt)} tokens and {asked or 1} were asked for; "
                    f"this model takes {allowed} together",
                    code="context_length_exceeded",
                )
            for _ in range(body.n):
                seed = None if body.seed is None else (body.seed + len(requests)) % SEED_RANGE
                sampling = SamplingParams(
                    max_new_tokens=asked if asked is not None else min(limits.default_max_tokens, room),
                    temperature=body.temperature,
                    top_p=body.top_p,
                    top_k=body.top_k,
                    seed=seed,
                )
                requests.append(GenerateRequest(prompt, sampling))
        return requests

    async def _whole(self, requests: list[GenerateRequest], stop: list[str]) -> list[Answer]:
        if stop:  # found in the text, token by token, so that generation ends there too
            return list(await asyncio.gather(*(self._until_stop(request, stop) for request in requests)))
        rollouts = await self._backend.generate(requests)
        return [
            Answer(
                text=self._tokenizer.decode(rollout.answer_ids_A.tolist(), skip_special_tokens=True),
                finish_reason=rollout.finish_reason,
                token_ids=rollout.answer_ids_A.tolist(),
                logprobs=rollout.logprobs_A.tolist(),
                version=int(rollout.versions_A[-1]),
            )
            for rollout in rollouts
        ]

    async def _until_stop(self, request: GenerateRequest, stop: list[str]) -> Answer:
        answer = Answer("", "stop", [], [], 0)
        async for piece in self._pieces(request, stop):
            answer.text += piece.text
            if piece.event is not None:
                answer.token_ids.append(piece.event.token_id)
                answer.logprobs.append(piece.event.logprob)
                answer.version = piece.event.version
            answer.finish_reason = piece.finish_reason or answer.finish_reason
        return answer

    async def _pieces(self, request: GenerateRequest, stop: Sequence[str]) -> AsyncGenerator[Piece, None]:
        """The answer as text, with the reason it ended at the last piece."""
        text = TextStream(self._tokenizer, stop)
        events = self._backend.stream(request)
        try:
            async for event in events:
                piece = text.push(event.token_id)
                if text.stopped:
                    yield Piece(piece, event, "stop")
                    return
                yield Piece(piece, event, None)
                if event.finish_reason is not None:
                    rest = text.finish()
                    yield Piece(rest, None, "stop" if text.stopped else event.finish_reason)
        finally:
            await events.aclose()

    async def _streamed(
        self,
        body: ChatCompletionRequest | CompletionRequest,
        requests: list[GenerateRequest],
        shape: Shape,
        envelope: dict[str, Any],
        prompt_tokens: int,
    ) -> StreamingResponse:
        pieces = _merge([self._pieces(request, body.stop) for request in requests])
        timeout_s = self._settings.limits.request_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        # Waiting for the first token before the headers go out lets an overload still be a 429.
        async with asyncio.timeout(timeout_s):
            first = await anext(pieces)

        def chunk(**content: Any) -> bytes:
            return sse_event({**envelope, "object": shape.chunk_kind, **content})

        async def chunks() -> AsyncIterator[bytes]:
            num_tokens, version = 0, 0
            try:
                for index in range(len(requests)):
                    if shape.opening is not None:
                        yield chunk(choices=[{"index": index, "delta": dict(shape.opening), "finish_reason": None}])
                async for index, piece in _prepend(first, pieces, deadline):
                    if piece.event is not None:
                        num_tokens, version = num_tokens + 1, piece.event.version
                    if not (piece.text or piece.finish_reason or shape.with_logprobs):
                        continue
                    choice = {"index": index, **shape.delta(piece), "finish_reason": piece.finish_reason}
                    yield chunk(choices=[choice], system_fingerprint=version_mark(version))
                if body.stream_options is not None and body.stream_options.include_usage:
                    yield chunk(choices=[], usage=usage_of(prompt_tokens, num_tokens))
                yield b"data: [DONE]\n\n"
            except TimeoutError:
                yield sse_event(ApiError(504, f"the answer took longer than {timeout_s:g} s", kind="timeout").body())
            except Overloaded as error:
                yield sse_event(ApiError(429, str(error), kind="rate_limit_error").body())
            except Exception:
                logger.exception("a stream broke off")
                yield sse_event(ApiError(500, "the server failed; its log says how", kind="server_error").body())
            finally:
                await pieces.aclose()

        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(chunks(), media_type="text/event-stream", headers=headers)


async def _merge(streams: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of several streams as they come, each with its stream's index."""
    arrived: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async for piece in stream:
                arrived.put_nowait((index, piece))
        finally:
            arrived.put_nowait((index, None))
            await stream.aclose()

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            index, piece = await arrived.get()
            if piece is None:
                await pumps[index]  # raises what ended the stream
                running -= 1
            else:
                yield index, piece
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _prepend(
    first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]], deadline: float
) -> AsyncIterator[tuple[int, Piece]]:
    """`first`, then the rest; raises `TimeoutError` at `deadline` (of the event loop's clock)."""
    yield first
    while True:
        async with asyncio.timeout_at(deadline):
            try:
                following = await anext(rest)
            except StopAsyncIteration:
                return
        yield following
