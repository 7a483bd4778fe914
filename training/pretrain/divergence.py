"""Tells when a training step has gone wrong: a loss or gradient that is no number, or a loss far above recent ones.

A `LossWatch` is told each step's loss and says what to do; it does nothing itself. "Far above" means more than
`spike_deviations` robust standard deviations (1.4826 times the median absolute deviation) over the median of the last
`window` losses. Medians are taken so that one spike doesn't raise the bar for the next.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.contracts.config import StrictModel

_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_LEAST_DEVIATION = 0.005  # of the median: a loss that hardly moves makes no spike of its noise


class DivergenceSettings(StrictModel):
    """What a run does about steps that go wrong. Every event is a line on the screen and in `metrics.jsonl`.

    `skip` leaves the weights as they are and goes on with the next batch. `rewind` goes back to the newest checkpoint
    at least `rewind_steps` old (the oldest there is, where none is so old) and on with the data behind the bad batch,
    as PaLM (Chowdhery et al. 2022, section 5.1) did.
    """

    not_finite: Literal["stop", "skip", "rewind"] = "stop"
    """What is done when the loss or the gradient's norm is nan or infinite: `stop` the run, `skip` the batch, or
    `rewind` to an earlier checkpoint and go on behind the bad batch.
    """

    spike: Literal["ignore", "log", "skip", "rewind"] = "log"
    """What is done when the loss is far above the recent ones: `ignore` it, `log` it, `skip` the batch, or `rewind`."""

    spike_deviations: Annotated[float, Field(gt=0)] = 10.0
    """How far above the median of the recent losses a loss counts as a spike, in robust standard deviations."""

    window: Annotated[int, Field(ge=8)] = 128
    """Number of recent losses that a loss is compared with. No spike is called before there are 8."""

    rewind_steps: Annotated[int, Field(ge=0)] = 100
    """Optimizer steps that a rewind goes back at least. Enough checkpoints must be kept to reach as far
    (`keep_checkpoints`).
    """

    max_events: Annotated[int, Field(ge=0)] = 10
    """Skips and rewinds that a run may have together; one more stops it."""


Trouble = Literal["not_finite", "spike"]
Action = Literal["stop", "log", "skip", "rewind"]


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a step, and what to do about it."""

    trouble: Trouble
    action: Action
    message: str


class LossWatch:
    """Judges each step's loss by those before it. Its state is a part of the checkpoint."""

    def __init__(
        self,
        settings: DivergenceSettings,
        *,
        losses: Iterable[float] = (),
        events: int = 0,
        history: Iterable[str] = (),
    ) -> None:
        self.settings = settings
        self.losses = deque(losses, maxlen=settings.window)
        self.events = events  # skips and rewinds so far
        self.history = list(history)  # all that went wrong so far, a line each, also what was only logged

    def state(self) -> dict[str, Any]:
        """JSON for a checkpoint; `LossWatch(settings, **state)` goes on from it."""
        return {"losses": list(self.losses), "events": self.events, "history": list(self.history)}

    def rewound(self, state: Mapping[str, Any]) -> LossWatch:
        """The watch of an earlier checkpoint, with the events since."""
        return LossWatch(self.settings, losses=state["losses"], events=self.events, history=self.history)

    def judge(self, loss: float) -> Verdict | None:
        """The verdict on a step of this loss (nats per token). None where nothing is wrong with it."""
        if not math.isfinite(loss):
            return self._verdict("not_finite", self.settings.not_finite, f"the training loss is {loss}")
        if self.settings.spike == "ignore":
            return None
        limit = self.limit()
        if limit is None or loss <= limit:
            return None
        return self._verdict(
            "spike",
            self.settings.spike,
            f"the training loss jumped to {loss:.4g}, over the {limit:.4g} of recent steps",
        )

    def judge_gradient(self, norm: float) -> Verdict | None:
        """The verdict on a step whose gradients have this global norm. One that is not finite is never applied."""
        if math.isfinite(norm):
            return None
        return self._verdict("not_finite", self.settings.not_finite, f"the gradient's norm is {norm}")

    def remember(self, step: int, verdict: Verdict) -> None:
        """Add a bad step to the history."""
        self.history.append(f"step {step}: {verdict.message}; {verdict.action}")

    def accept(self, loss: float) -> None:
        """Remember the loss of a step that was applied."""
        self.losses.append(loss)

    def limit(self) -> float | None:
        """The loss above which a step is a spike. None while there are too few recent losses to tell."""
        if len(self.losses) < 8:
            return None
        median = statistics.median(self.losses)
        deviation = _MAD_TO_DEVIATION * statistics.median(abs(loss - median) for loss in self.losses)
        return median + self.settings.spike_deviations * max(deviation, _LEAST_DEVIATION * abs(median))

    def _verdict(self, trouble: Trouble, action: Action, message: str) -> Verdict:
        if action in ("skip", "rewind"):
            if self.events >= self.settings.max_events:
                return Verdict(
                    trouble, "stop", f"{message}, after {self.events} skips and rewinds (divergence.max_events)"
                )
            self.events += 1
        return Verdict(trouble, action, message)
