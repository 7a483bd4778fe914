"""What the dedupe stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

DEDUPE_FIGURES = ReportFigures(
    headline=("documents", "kept"),
)
