"""What the preferences stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

PREFERENCES_FIGURES = ReportFigures(
    headline=("num_train_pairs", "num_heldout_pairs", "num_quarantined"),
)
