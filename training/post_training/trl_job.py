"""What a stage that TRL trains tells its workers, and what their training leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.contracts.commit import WrittenFile
from training.post_training.config import TrlConfig

Config = TypeVar("Config", bound=TrlConfig)


@dataclass(frozen=True)
class TrlJob(Generic[Config]):
    """What each worker is told; `Config` is the stage's own settings."""

    config: Config
    model_uri: str
    output: str
    seed: int
    stage: str  # its name in the spec
    data_uri: str  # the artifact of conversations or preferences that is learned from


@dataclass(frozen=True)
class TrainedModel:
    """What `train_once` leaves: the figures of the training, and the files of the exported model."""

    engine: dict[str, Any]  # what the training engine was found to be at run time
    steps: int  # optimizer steps, those before a resume included
    train_loss: float  # of the last step
    best: dict[str, float]  # best_step and best_heldout_loss, where the best model is kept; else empty
    export: dict[str, Any]  # number format of the exported weights, and what rounding to it took back
    files: list[WrittenFile]  # the model directory and the metrics log; empty on all ranks but 0
