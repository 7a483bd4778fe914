"""How far a pre-training run has come, besides what the engine holds: the part of a checkpoint that is JSON.

The engine's files in a checkpoint hold weights, optimizer and random state. `RunState` holds all else that a run needs
to go on: which step comes next, which data was passed over, and what the figures so far were. `to_dict` writes it and
`from_dict` reads it, so that what is saved and what a resume reads can't disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from training.pretrain.divergence import DivergenceSettings, LossWatch


@dataclass
class RunState:
    """The state of a run before optimizer step `step`; the same on all ranks."""

    watch: LossWatch  # judges each step's loss by those before it
    step: int = 0  # optimizer steps made; a checkpoint's own number, so not part of `to_dict`
    # Samples that a run which went back has passed over: step s begins at `BatchPlan.first_sample(s) + sample_offset`.
    sample_offset: int = 0
    train_loss: float = math.nan  # of the last step that was applied, nats per token
    seconds: dict[str, float] = field(default_factory=dict)  # `StepMeter.seconds`: where the time went so far

    @classmethod
    def new(cls, divergence: DivergenceSettings) -> Self:
        """A run that begins."""
        return cls(LossWatch(divergence))

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint of `step` keeps, as JSON."""
        return {
            "sample_offset": self.sample_offset,
            "train_loss": self.train_loss,
            "seconds": dict(self.seconds),
            "watch": self.watch.state(),
        }

    @classmethod
    def from_dict(cls, step: int, saved: Mapping[str, Any], divergence: DivergenceSettings) -> Self:
        """The run whose checkpoint of `step` holds `saved`; keys that are not the run's own are left alone.

        `divergence` may differ from the settings that the checkpoint was written under.
        """
        return cls(
            watch=LossWatch(divergence, **saved["watch"]),
            step=step,
            sample_offset=saved["sample_offset"],
            train_loss=saved["train_loss"],
            seconds=dict(saved["seconds"]),
        )

    def go_back(self, step: int, saved: Mapping[str, Any], *, sample_offset: int) -> None:
        """Become the run before `step`, whose checkpoint holds `saved`, with another offset into the data.

        The losses to judge by are those of the checkpoint. Events are counted on, since a run that goes back too often
        is to stop. The seconds were spent all the same.
        """
        self.step, self.sample_offset = step, sample_offset
        self.watch = self.watch.rewound(saved["watch"])

    def rewound_dict(self) -> dict[str, Any]:
        """What `go_back` changed: it goes over the checkpoint's own state where a resume starts from that step."""
        return {name: value for name, value in self.to_dict().items() if name in ("sample_offset", "watch")}
