"""The mixture stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.mixture.config import MixtureConfig

MIXTURE = StageKind(
    config=MixtureConfig,
    function="dataprep.mixture.stage:run",
    summary="weigh sources, languages and lengths",
    headline=("tokens",),
)
