"""The tokenize stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.tokenize.config import TokenizeConfig

TOKENIZE = StageKind(
    config=TokenizeConfig,
    function="dataprep.tokenize.stage:run",
    summary="write token shards",
    headline=("documents", "tokens"),
)
