"""What the tokenize stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

TOKENIZE_FIGURES = ReportFigures(
    headline=("documents", "tokens"),
)
