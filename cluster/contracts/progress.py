"""How work tells that it moves: a protocol that is small enough to be called from any process.

A stage calls `progress.update(...)` from wherever it runs (rank 0 of a training job, the driver of a Ray Data
pipeline). What the user sees of it, a bar on a terminal or plain lines elsewhere, is up to the runner.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Whoever implements it must be picklable and cheap, and must never raise."""

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        """Tell that `done` of `total` units are finished; `figures` ("loss", "tokens_per_s") are shown beside that."""

    def note(self, message: str) -> None:
        """Show the user one line, such as "resuming from step 40"."""


class SilentProgress:
    """Progress that shows nothing, for tests and for runs in a plain process."""

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        pass

    def note(self, message: str) -> None:
        pass
