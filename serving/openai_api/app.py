"""The HTTP API as a FastAPI app over a `Backend`; knows nothing of Ray.

GET  /healthz               open to all
GET  /v1/models
POST /v1/chat/completions   stream=true: server-sent events
POST /v1/completions
POST /v1/score              the reward model's scores of conversations
"""

from __future__ import annotations

import asyncio
import time
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

from cluster.contracts.chat.control_strings import encode_text
from cluster.contracts.chat.encoder import ChatEncoder
from serving.openai_api.backend import AppSettings, Backend
from serving.openai_api.completions import Completions
from serving.openai_api.errors import ApiError, add_error_handlers, check_model
from serving.openai_api.middleware import BodyLimit, KeyGuard
from serving.openai_api.requests import ChatCompletionRequest, CompletionRequest, ScoreRequest
from serving.openai_api.responses import ChatShape, TextShape


def build_app(backend: Backend, policy_tokenizer: Any, reward_tokenizer: Any | None, settings: AppSettings) -> FastAPI:
    """The app. `reward_tokenizer` is None exactly where `settings.reward_name` is."""
    app = FastAPI(title="Raymill", docs_url=None, redoc_url=None, openapi_url=None)
    add_error_handlers(app, retry_after_s=settings.limits.retry_after_s)
    app.add_middleware(BodyLimit, max_bytes=settings.limits.max_body_bytes)
    app.add_middleware(KeyGuard, digests=settings.key_digests, open_paths=frozenset({"/healthz"}))
    completions = Completions(backend, policy_tokenizer, settings)
    started = int(time.time())
    # Made when first needed: a model without a chat template still completes texts.
    policy_chat = cache(lambda: ChatEncoder(policy_tokenizer))
    reward_chat = cache(lambda: ChatEncoder(reward_tokenizer))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [name for name in (settings.policy_name, settings.reward_name) if name is not None]
        listed = [{"id": name, "object": "model", "created": started, "owned_by": "raymill"} for name in names]
        return {"object": "list", "data": listed}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatCompletionRequest) -> JSONResponse | StreamingResponse:
        prompt = policy_chat().encode_prompt([turn.message() for turn in body.messages])
        return await completions.answer(body, [prompt], ChatShape(body.logprobs, policy_tokenizer))

    @app.post("/v1/completions", response_model=None)
    async def text_completions(body: CompletionRequest) -> JSONResponse | StreamingResponse:
        prompts = _prompts(policy_tokenizer, body.prompt)
        return await completions.answer(body, prompts, TextShape(body.logprobs is not None, policy_tokenizer))

    @app.post("/v1/score")
    async def score(body: ScoreRequest) -> dict[str, Any]:
        if settings.reward_name is None:
            raise ApiError(404, "this server has no reward model", code="model_not_found")
        check_model(body.model, settings.reward_name)
        conversations = body.all_conversations()
        if len(conversations) > settings.limits.max_choices:
            raise ApiError(400, f"{len(conversations)} conversations; at most {settings.limits.max_choices} at once")
        sequences = [reward_chat().encode_finished(conversation) for conversation in conversations]
        async with asyncio.timeout(settings.limits.request_timeout_s):
            scores = await backend.score(sequences)
        data = [{"object": "score", "index": index, "score": value} for index, value in enumerate(scores)]
        num_tokens = sum(map(len, sequences))
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "model": settings.reward_name, "data": data, "usage": usage}

    return app


def _prompts(tokenizer: Any, prompt: str | list[str] | list[int]) -> list[list[int]]:
    """Token ids of one or several prompts. Text is text; who wants control tokens passes ids."""
    if isinstance(prompt, str):
        return [encode_text(tokenizer, prompt)]
    texts = [text for text in prompt if isinstance(text, str)]
    if texts:
        return [encode_text(tokenizer, text) for text in texts]
    return [[token for token in prompt if isinstance(token, int)]]
