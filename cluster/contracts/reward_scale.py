"""The scale of a reward model's rewards, written beside the model: their mean and spread on the training answers.

A Bradley-Terry loss fixes differences of rewards and not their zero, and fixes their spread only loosely. With the
scale `applied`, whoever opens the model subtracts the mean and divides by the standard deviation, so rewards of two
models, and a KL coefficient that goes with them, can be compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from cluster.contracts.errors import CorruptArtifact

REWARD_SCALE_FILE = "reward_scale.json"


@dataclass(frozen=True)
class RewardScale:
    """Mean and standard deviation of the rewards of `num_answers` training answers."""

    mean: float
    std: float
    num_answers: int
    applied: bool  # whether the model's rewards are given on this scale

    def scaled(self, reward: float) -> float:
        """The reward as it is given to whoever asks."""
        return (reward - self.mean) / (self.std or 1.0) if self.applied else reward

    def to_json(self) -> bytes:
        """The content of `REWARD_SCALE_FILE`."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2) + b"\n"


UNSCALED = RewardScale(0.0, 1.0, 0, applied=False)


def read_reward_scale(directory: Path) -> RewardScale:
    """The scale in a model directory; `UNSCALED` where it has none. Raises `CorruptArtifact`."""
    try:
        return RewardScale(**orjson.loads((directory / REWARD_SCALE_FILE).read_bytes()))
    except FileNotFoundError:
        return UNSCALED
    except (ValueError, TypeError) as error:
        raise CorruptArtifact(f"{directory / REWARD_SCALE_FILE} can't be read: {error}") from error
