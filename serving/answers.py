"""Answers from finished models, one model after another, whichever the caller names. Takes and gives token ids only.

A replica holds the model that was asked for last. So a stage that samples from five models needs room for one, and
pays for starting a process once. `AnswerEngine` needs no Ray, and serves stages that run without it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cluster.contracts.records import GenerateRequest, Rollout
from serving.config import ServerConfig
from serving.engine.protocol import TokenEvent, rollout_of
from serving.engine.torch_engine import TorchEngine
from serving.models import load_causal_lm, stop_token_ids


class AnswerEngine:
    """A `cluster.contracts.records.AnswerClient` in this process. Calls wait for one another.

    The requests of a call are worked on together, and apart from those of other calls. So the same call gives the same
    answers, bit for bit: continuous batching would let a row's neighbours depend on when calls arrive.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._model_uri: str | None = None
        self._engine: TorchEngine | None = None
        self._stop_ids: tuple[int, ...] = ()
        self._lock = threading.Lock()

    def generate(self, model_uri: str, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """Answers in the order of the requests. Raises `InputError` for a request that can't be answered."""
        with self._lock:
            engine = self._load(model_uri)
            events: dict[int, list[TokenEvent]] = {}
            try:
                ids = [engine.submit(self._with_stop_ids(request)) for request in requests]
                while made := engine.step():
                    for event in made:
                        events.setdefault(event.request_id, []).append(event)
            except BaseException:
                self._model_uri = self._engine = None  # with whatever rows it was working on
                raise
        return [rollout_of(request, events[number]) for number, request in zip(ids, requests, strict=True)]

    def max_model_len(self, model_uri: str) -> int:
        """The most tokens that a prompt of this model and its answer may have together."""
        with self._lock:
            return self._load(model_uri).max_model_len

    def _load(self, model_uri: str) -> TorchEngine:
        if self._engine is None or self._model_uri != model_uri:
            self._model_uri = self._engine = None  # before the next one takes its room
            config = self._config
            self._stop_ids = stop_token_ids(model_uri)
            self._engine = TorchEngine(
                load_causal_lm(model_uri, config),
                max_batch_size=config.max_batch_size,
                max_batch_tokens=config.max_batch_tokens,
                max_prefill_tokens=config.max_prefill_tokens,
                max_model_len=config.max_model_len,
            )
            self._model_uri = model_uri
        return self._engine

    def _with_stop_ids(self, request: GenerateRequest) -> GenerateRequest:
        stop_ids = tuple(sorted({*request.sampling.stop_token_ids, *self._stop_ids}))
        return replace(request, sampling=replace(request.sampling, stop_token_ids=stop_ids))


class AnswerServer:
    """One replica: an `AnswerEngine` in a thread of its own, which works on one call after another."""

    def __init__(self, config: ServerConfig) -> None:
        self._engine = AnswerEngine(config)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")

    async def generate(self, model_uri: str, requests: list[GenerateRequest]) -> list[Rollout]:
        """Answers in the order of the requests."""
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, self._engine.generate, model_uri, requests
        )

    async def max_model_len(self, model_uri: str) -> int:
        """The most tokens that a prompt of this model and its answer may have together."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._engine.max_model_len, model_uri)
