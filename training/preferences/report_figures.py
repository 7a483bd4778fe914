"""What the preferences stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import ReportFigures, Table

PREFERENCES_FIGURES = ReportFigures(
    headline=("num_train_pairs", "num_heldout_pairs", "num_quarantined"),
    tables=(
        Table("train_rows_by_kind", "Training rows by kind"),
        Table("heldout_rows_by_kind", "Held-out rows by kind"),
        Table("quarantined_by_reason", "Rows that were no feedback, by reason"),
    ),
)
