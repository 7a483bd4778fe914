"""Progress from any process to the driver's display.

In the driver a stage's `progress` calls the display directly. Pickled into a Ray worker it becomes a handle on
a small relay actor, started only then, which the driver polls.
"""

from __future__ import annotations

import threading
import time
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
    """Keeps the newest update and all unread notes."""

    def __init__(self) -> None:
        self._update: tuple[Any, ...] | None = None
        self._notes: list[str] = []

    def push_update(self, *update: Any) -> None:
        self._update = update

    def push_note(self, message: str) -> None:
        self._notes.append(message)

    def take(self) -> tuple[tuple[Any, ...] | None, list[str]]:
        taken = self._update, self._notes
        self._update, self._notes = None, []
        return taken


class WorkerProgress:
    """A stage's progress as seen in a Ray worker: sends to the relay and never waits."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay
        self._last = 0.0

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        now = time.monotonic()
        if now - self._last >= _WORKER_INTERVAL_S or done == total:
            self._last = now
            self._relay.push_update.remote(done, total, unit, figures)

    def note(self, message: str) -> None:
        self._relay.push_note.remote(message)


class StageProgress:
    """A stage's progress in the driver; close it when the stage ends."""

    def __init__(self, display: Display) -> None:
        self._display = display
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
            ray.kill(self._relay)

    def __reduce__(self) -> tuple[Callable[[Any], WorkerProgress], tuple[Any]]:
        if self._relay is None:
            self._relay = _Relay.remote()  # type: ignore[attr-defined]
            self._thread = threading.Thread(target=self._poll, daemon=True, name="raymill-progress")
            self._thread.start()
        return (WorkerProgress, (self._relay,))

    def _poll(self) -> None:
        while not self._closed.wait(_POLL_S):
            self._drain()

    def _drain(self) -> None:
        try:
            update, notes = ray.get(self._relay.take.remote(), timeout=10)
        except ray.exceptions.RayError:
            return  # the cluster is going down; the stage itself reports why
        for message in notes:
            self._display.note(message)
        if update is not None:
            done, total, unit, figures = update
            self._display.update(done, total, unit, figures)
