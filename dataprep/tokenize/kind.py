"""The tokenize stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from dataprep.tokenize.config import TokenizeConfig
from dataprep.tokenize.report_figures import TOKENIZE_FIGURES

_EXAMPLE = """\
stages:
  tokenize:
    documents: dedupe
    tokenizer: tokenizer
    heldout_fraction: 0.01
    length_classes: [2048, 8192]
"""

TOKENIZE = StageKind(
    config=TokenizeConfig,
    function="dataprep.tokenize.stage:run",
    summary="write token shards",
    makes=(
        "Token shards (Arrow IPC, to be mapped into memory) for training and held-out ones, with an index of "
        "sources, languages and lengths."
    ),
    example=_EXAMPLE,
    figures=TOKENIZE_FIGURES,
)
