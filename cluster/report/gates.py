"""What each kind of stage must show: its figure, what it is read against, and how far from that it has to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """`figure` must be `wanted` ("lower" or "higher") than `bound`, which is made of the yardstick `against`."""

    figure: str
    wanted: Literal["lower", "higher"]
    against: str | float  # another figure of the same stage, or a number
    bound: Callable[[float, Metrics], float] = lambda yardstick, metrics: yardstick
    needs: tuple[str, ...] = ()  # further figures that `bound` reads


@dataclass(frozen=True)
class Reading:
    """A yardstick held against a stage's metrics."""

    figure: str
    value: float
    against: str  # the yardstick's name; "chance" for a number
    yardstick: float
    wanted: str
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the stage has shown what it must."""
        return self.value < self.bound if self.wanted == "lower" else self.value > self.bound


GATES: dict[str, tuple[Gate, ...]] = {
    # Counts of single words explain the unigram entropy; half a nat below it is order that was learnt.
    "pretrain": (Gate("heldout_loss", "lower", "unigram_entropy", lambda entropy, _: entropy - 0.5),),
    "sft": (Gate("heldout_answer_loss", "lower", "base_heldout_answer_loss"),),
    "reward_model": (
        Gate("heldout_pair_accuracy", "higher", "length_baseline_accuracy", lambda accuracy, _: accuracy + 0.15),
        Gate("heldout_pair_accuracy", "higher", "bag_of_words_baseline_accuracy", lambda accuracy, _: accuracy + 0.15),
    ),
    "dpo": (Gate("heldout_preference_accuracy", "higher", 0.5, lambda chance, _: chance + 0.2),),
    "ppo": (
        Gate(
            "heldout_reward_after",
            "higher",
            "heldout_reward_before",
            lambda before, metrics: before + 2 * metrics["heldout_reward_se"],
            needs=("heldout_reward_se",),
        ),
        Gate("kl_to_reference", "lower", "kl_ceiling"),
        # Fewer than half as many different answers is collapse, whatever the reward says.
        Gate("distinct_answers_after", "higher", "distinct_answers_before", lambda before, _: (before - 1) / 2),
    ),
}


def readings(kind: str, metrics: Metrics) -> list[Reading]:
    """Every yardstick of a kind of stage whose figures are among `metrics`."""
    found = []
    for stick in GATES.get(kind, ()):
        yardstick = metrics.get(stick.against) if isinstance(stick.against, str) else stick.against
        value = metrics.get(stick.figure)
        if value is None or yardstick is None or any(metrics.get(name) is None for name in stick.needs):
            continue
        label = stick.against if isinstance(stick.against, str) else "chance"
        found.append(Reading(stick.figure, value, label, yardstick, stick.wanted, stick.bound(yardstick, metrics)))
    return found
