"""The dedupe stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.dedupe.config import DedupeConfig

DEDUPE = StageKind(
    config=DedupeConfig,
    function="dataprep.dedupe.stage:run",
    summary="find exact and near duplicates",
    headline=("documents", "kept"),
    is_corpus=True,
)
