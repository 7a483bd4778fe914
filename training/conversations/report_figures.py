"""What the conversations stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures

CONVERSATIONS_FIGURES = ReportFigures(headline=("num_train", "num_heldout", "num_quarantined"))
