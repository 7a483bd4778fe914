"""What the repeated_lines stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

REPEATED_LINES_FIGURES = ReportFigures(
    headline=("documents", "kept", "cut_lines"),
)
