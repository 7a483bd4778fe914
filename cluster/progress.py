"""Progress from any process to the driver's display.

In the driver a stage's `progress` calls the display directly. Pickled into a Ray worker it becomes a handle on a small
relay actor, which the driver polls. It is started when a stage first needs it and serves the later ones too: a process
of Ray's costs one to two CPU-seconds to start.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import ray

_POLL_S = 0.25
_WORKER_INTERVAL_S = 0.2  # a worker sends no more often than this


class Display(Protocol):
    """What shows one stage's progress."""

    def update(self, done: float, total: float | None, unit: str, figures: dict[str, float | str]) -> None: ...

    def note(self, message: str) -> None: ...


@ray.remote(num_cpus=0)
class _Relay:
    """Keeps each stage's newest update and its unread notes."""

    def __init__(self) -> None:
        self._updates: dict[str, tuple[Any, ...]] = {}
        self._notes: dict[str, list[str]] = {}

    def push_update(self, stage: str, *update: Any) -> None:
        self._updates[stage] = update

    def push_note(self, stage: str, message: str) -> None:
        self._notes.setdefault(stage, []).append(message)

    def take(self, stage: str) -> tuple[tuple[Any, ...] | None, list[str]]:
        return self._updates.pop(stage, None), self._notes.pop(stage, [])


_relays: dict[tuple[str, str], Any] = {}  # (node, job) of Ray -> its relay


def _relay() -> Any:
    """The relay of the Ray that this process is connected to."""
    context = ray.get_runtime_context()
    here = context.get_node_id(), context.get_job_id()  # every Ray counts its jobs from 1
    if here not in _relays:
        _relays.clear()
        _relays[here] = _Relay.options(max_restarts=-1).remote()  # type: ignore[attr-defined]
    return _relays[here]


class WorkerProgress:
    """A stage's progress as seen in a Ray worker: sends to the relay and never waits."""

    def __init__(self, relay: Any, stage: str) -> None:
        self._relay, self._stage = relay, stage
        self._last = 0.0

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        now = time.monotonic()
        if now - self._last >= _WORKER_INTERVAL_S or done == total:
            self._last = now
            self._relay.push_update.remote(self._stage, done, total, unit, figures)

    def note(self, message: str) -> None:
        self._relay.push_note.remote(self._stage, message)


class StageProgress:
    """A stage's progress in the driver; close it when the stage ends.

    `start_s`: seconds from here until a worker had done its first step; None until then, or where none works.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._begun = time.monotonic()
        self.start_s: float | None = None
        self._stage = uuid.uuid4().hex
        self._relay: Any = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        self._display.update(done, total, unit, figures)

    def note(self, message: str) -> None:
        self._display.note(message)

    def close(self) -> None:
        """Stop listening, after the last messages are shown."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._drain()

    def __reduce__(self) -> tuple[Callable[[Any, str], WorkerProgress], tuple[Any, str]]:
        if self._relay is None:
            self._relay = _relay()
            self._thread = threading.Thread(target=self._poll, daemon=True, name="raymill-progress")
            self._thread.start()
        return (WorkerProgress, (self._relay, self._stage))

    def _poll(self) -> None:
        while not self._closed.wait(_POLL_S):
            self._drain()

    def _drain(self) -> None:
        try:
            update, notes = ray.get(self._relay.take.remote(self._stage), timeout=10)
        except ray.exceptions.RayError:
            return  # the cluster is going down; the stage itself reports why
        for message in notes:
            self._display.note(message)
        if update is not None:
            done, total, unit, figures = update
            if self.start_s is None and done > 0:
                self.start_s = time.monotonic() - self._begun
                self._display.note(f"first {unit.removesuffix('s')} {self.start_s:.1f} s after its start")
            self._display.update(done, total, unit, figures)
