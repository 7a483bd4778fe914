"""The conversations stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.conversations.config import ConversationsConfig
from training.conversations.report_figures import CONVERSATIONS_FIGURES

_EXAMPLE = """\
stages:
  conversations:
    inputs: [data/conversations.jsonl, data/more-*.jsonl.zst]
    heldout_fraction: 0.1
"""

CONVERSATIONS = StageKind(
    config=ConversationsConfig,
    function="training.conversations.stage:run",
    summary="read conversations and split them by prompt",
    makes=(
        "Conversations as Parquet: `train.parquet` and `heldout.parquet`, each row with its file and offset; rows left "
        "out with the reason (`dropped.parquet`) and rows that could not be read (`quarantined.parquet`)."
    ),
    example=_EXAMPLE,
    figures=CONVERSATIONS_FIGURES,
)
