"""The evaluate stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.evaluate.config import EvaluateConfig

EVALUATE = StageKind(
    config=EvaluateConfig,
    function="training.evaluate.stage:run",
    summary="compare the models",
    runs_without_ray=True,
)
