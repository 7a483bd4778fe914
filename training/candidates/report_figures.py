"""What the candidates stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

CANDIDATES_FIGURES = ReportFigures(
    headline=("num_prompts", "num_answers", "finished_fraction", "mean_answer_tokens", "num_quarantined")
)
