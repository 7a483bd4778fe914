"""How long work tells that it moves: a protocol small enough to be called from any process.

A stage calls `progress.update(...)` from wherever it runs (rank 0 of a training job, the driver of a Ray
Data pipeline). What the user sees, a bar on a terminal or plain lines elsewhere, is the runner's affair.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Must be picklable, cheap and never raise."""

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        """`done` of `total` units are finished; `figures` ("loss", "tokens_per_s") are shown beside the bar."""

    def note(self, message: str) -> None:
        """One line the user should see, such as "resuming from step 40"."""


class SilentProgress:
    """Progress that shows nothing; for tests and plain-process runs."""

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        pass

    def note(self, message: str) -> None:
        pass
