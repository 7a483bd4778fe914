"""What the quality_classifier stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

QUALITY_CLASSIFIER_FIGURES = ReportFigures(
    headline=("num_positive", "num_negative", "heldout_accuracy", "heldout_auc"),
)
