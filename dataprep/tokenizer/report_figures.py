"""What the tokenizer stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

TOKENIZER_FIGURES = ReportFigures(
    headline=("vocab_size",),
)
