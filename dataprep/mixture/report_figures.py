"""What the mixture stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

MIXTURE_FIGURES = ReportFigures(
    headline=("tokens",),
)
