"""The repeated_lines stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.repeated_lines.config import RepeatedLinesConfig

REPEATED_LINES = StageKind(
    config=RepeatedLinesConfig,
    function="dataprep.repeated_lines.stage:run",
    summary="cut lines that stand in many documents",
    headline=("documents", "kept", "cut_lines"),
    is_corpus=True,
)
