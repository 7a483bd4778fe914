"""The clean stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.clean.config import CleanConfig

CLEAN = StageKind(
    config=CleanConfig,
    function="dataprep.clean.stage:run",
    summary="extract, identify language, filter",
    headline=("read", "kept", "quarantined"),
    is_corpus=True,
)
