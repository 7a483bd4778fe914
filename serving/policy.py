"""The policy deployment: a rollout engine behind Ray Serve. It takes and gives token ids only.

Online RL calls `generate` through a deployment handle; the HTTP app calls `stream`. Text, chat templates and stop
strings are the HTTP app's affair.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from cluster.contracts.errors import StageFailed
from cluster.contracts.records import GenerateRequest, Rollout
from serving.config import ServerConfig
from serving.engine.loop import EngineLoop
from serving.engine.protocol import EngineLoad, TokenEvent
from serving.engine.torch_engine import TorchEngine
from serving.models import import_ahead, load_causal_lm, stop_token_ids
from serving.weight_updates.buckets import unpack
from serving.weight_updates.store import wait_for_release


@dataclass(frozen=True)
class PolicyDescription:
    """What callers need to know of a replica."""

    replica_name: str
    pid: int
    version: int
    max_model_len: int  # tokens, prompt and answer together


class PolicyServer:
    """One replica. `store` is the weight store's handle, or None where weights never change.

    A request without stop ids stops at the model's own end-of-answer tokens.
    """

    def __init__(self, model_uri: str, config: ServerConfig, store: Any | None) -> None:
        self._config = config
        self._store = store
        self._number = 0  # of the publication served; 0: what `model_uri` holds
        self._switching = asyncio.Lock()
        self._replica_name = ray.get_runtime_context().get_actor_name()
        if store is not None:
            import_ahead()
            wait_for_release(store)
        self._stop_ids = stop_token_ids(model_uri)
        engine = TorchEngine(
            load_causal_lm(model_uri, config),
            max_batch_size=config.max_batch_size,
            max_batch_tokens=config.max_batch_tokens,
            max_prefill_tokens=config.max_prefill_tokens,
            max_model_len=config.max_model_len,
        )
        self._max_model_len = engine.max_model_len
        if store is not None:
            self._load_newest(engine, store)
        self._loop = EngineLoop(engine)

    async def generate(self, requests: list[GenerateRequest]) -> list[Rollout]:
        """Answers in the order of the requests, made by the newest weights that are published."""
        await self._catch_up()
        tasks = [asyncio.create_task(self._loop.generate(self._with_stop_ids(request))) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # if one request failed or the caller left, the others are for nobody

    async def stream(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """The tokens of one answer as they are made."""
        await self._catch_up()
        async for event in self._loop.stream(self._with_stop_ids(request)):
            yield event

    async def update(self, number: int) -> str:
        """Switch to publication `number` or a newer one; returns the replica's name. The target of broadcasts."""
        async with self._switching:
            if self._number < number:
                assert self._store is not None
                publication = await self._store.current.remote()
                if publication is None or publication.number < number:
                    raise StageFailed(f"the weight store lost publication {number}; publish it again")
                state: dict[str, torch.Tensor] = {}
                for reference in publication.buckets:
                    state.update(unpack(await reference))
                await self._loop.update_weights(publication.version, state)
                self._number = publication.number
                await self._store.confirm.remote(self._replica_name, self._number)
        return self._replica_name

    async def version(self) -> int:
        """The version of the weights in use."""
        return self._loop.version

    async def describe(self) -> PolicyDescription:
        """What this replica is."""
        return PolicyDescription(self._replica_name, os.getpid(), self._loop.version, self._max_model_len)

    async def load(self) -> EngineLoad:
        """How busy this replica's engine is."""
        return await self._loop.load()

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica whose engine has failed."""
        if self._loop.failure is not None:
            raise self._loop.failure

    def _load_newest(self, engine: TorchEngine, store: Any) -> None:
        """Before this replica is ready: take the newest published weights, if there are any."""
        publication = ray.get(store.current.remote())
        if publication is not None:
            state: dict[str, torch.Tensor] = {}
            for bucket in ray.get(list(publication.buckets)):
                state.update(unpack(bucket))
            engine.update_weights(publication.version, state)
            self._number = publication.number
        ray.get(store.confirm.remote(self._replica_name, self._number))

    async def _catch_up(self) -> None:
        """Never answer from older weights than are published.

        A broadcast reaches the replicas that the sender knows of. One that became ready while weights were being
        published may have fetched the ones before and not be known yet; so it asks before each call.
        """
        if self._store is not None:
            number = await self._store.current_number.remote()
            if number > self._number:
                await self.update(number)

    def _with_stop_ids(self, request: GenerateRequest) -> GenerateRequest:
        if request.sampling.stop_token_ids or not self._stop_ids:
            return request
        return replace(request, sampling=replace(request.sampling, stop_token_ids=self._stop_ids))
