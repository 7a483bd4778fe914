"""Runs an engine in a thread of its own, for asyncio callers.

All calls on the engine happen in that thread, between steps. What callers hand in waits in an inbox until then. The
events of a step travel to the callers' event loop in one call. If a step raises, every caller gets the error and the
loop stays broken: `failure` says so, and the deployment's health check has the replica replaced.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import torch

from cluster.contracts.errors import StageFailed
from cluster.contracts.records import GenerateRequest, Rollout
from serving.engine.protocol import Engine, EngineLoad, TokenEvent, rollout_of

T = TypeVar("T")
_Stream = asyncio.Queue[TokenEvent | Exception]
_Delivery = tuple[_Stream, TokenEvent | Exception]


class EngineLoop:
    """One engine, many concurrent callers. Methods are safe to call from any event loop of the process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[int, tuple[asyncio.AbstractEventLoop, _Stream]] = {}
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def version(self) -> int:
        """The version of the weights in use."""
        return self._engine.version

    async def generate(self, request: GenerateRequest) -> Rollout:
        """The whole answer to one request. Raises `InputError` for one that can never be answered."""
        return rollout_of(request, [event async for event in self.stream(request)])

    async def stream(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """The answer's tokens as they are made. Closing the iterator early cancels the request."""
        events: _Stream = asyncio.Queue()
        caller = asyncio.get_running_loop()

        def submit() -> int:
            request_id = self._engine.submit(request)
            self._streams[request_id] = (caller, events)
            return request_id

        request_id = await self._call(submit)
        finished = False
        try:
            while not finished:
                event = await events.get()
                if isinstance(event, Exception):
                    finished = True
                    raise event
                finished = event.finish_reason is not None
                yield event
        finally:
            if not finished:
                self._inbox.put(lambda: self._cancel(request_id))

    async def update_weights(self, version: int, state: Mapping[str, torch.Tensor]) -> None:
        """Switch to new weights between two steps. `state` must stay unchanged until this returns."""
        await self._call(lambda: self._engine.update_weights(version, state))

    async def load(self) -> EngineLoad:
        """How busy the engine is."""
        return await self._call(self._engine.load)

    def stop(self) -> None:
        """End the thread after the step under way; callers that still wait get an error."""
        self._inbox.put(None)
        self._thread.join()

    async def _call(self, function: Callable[[], T]) -> T:
        """Run `function` in the engine's thread, between two steps."""
        if self.failure is not None:
            raise self.failure
        caller = asyncio.get_running_loop()
        future: asyncio.Future[T] = caller.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            try:
                result = function()
            except Exception as error:
                _post(caller, settle, None, error)
            else:
                _post(caller, settle, result, None)

        self._inbox.put(run)
        return await future

    def _cancel(self, request_id: int) -> None:
        if self._streams.pop(request_id, None) is not None:
            self._engine.cancel(request_id)

    def _run(self) -> None:
        idle = True
        while True:
            while True:
                try:
                    command = self._inbox.get(block=idle)
                except queue.Empty:
                    break
                if command is None:
                    self._fail(StageFailed("the engine was stopped"))
                    return
                command()
                idle = False
            events: list[TokenEvent] = []
            if self.failure is None:
                try:
                    events = self._engine.step()
                except Exception as error:
                    self._fail(error)
            self._deliver(events)
            idle = not events

    def _deliver(self, events: list[TokenEvent]) -> None:
        by_caller: dict[asyncio.AbstractEventLoop, list[_Delivery]] = {}
        for event in events:
            caller, stream = self._streams[event.request_id]
            by_caller.setdefault(caller, []).append((stream, event))
            if event.finish_reason is not None:
                del self._streams[event.request_id]
        for caller, deliveries in by_caller.items():
            _post(caller, _put_all, deliveries)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        for caller, stream in self._streams.values():
            _post(caller, _put_all, [(stream, error)])
        self._streams.clear()


def _post(caller: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    try:
        caller.call_soon_threadsafe(function, *arguments)
    except RuntimeError:  # the caller's event loop has been closed: nobody waits any more
        pass


def _put_all(deliveries: list[_Delivery]) -> None:
    for stream, event in deliveries:
        stream.put_nowait(event)
