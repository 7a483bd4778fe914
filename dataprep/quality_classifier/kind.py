"""The quality_classifier stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.quality_classifier.config import QualityClassifierConfig

QUALITY_CLASSIFIER = StageKind(
    config=QualityClassifierConfig,
    function="dataprep.quality_classifier.stage:run",
    summary="train a fastText classifier of good and bad documents",
    headline=("num_positive", "num_negative", "heldout_accuracy", "heldout_auc"),
)
