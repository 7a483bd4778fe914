"""What the clean stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

CLEAN_FIGURES = ReportFigures(
    headline=("read", "kept", "quarantined"),
)
