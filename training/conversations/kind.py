"""The conversations stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.conversations.config import ConversationsConfig
from training.conversations.report_figures import CONVERSATIONS_FIGURES

_EXAMPLE = """\
stages:
  conversations:
    sets:
      talks: {inputs: [data/conversations.jsonl, data/more-*.jsonl.zst]}
      reviews:
        inputs: [data/reviews.csv]
        template:
          prompt: "Is this review positive?\\n\\n{text}"
          answer: "{label}"
          labels: {label: {0: "No.", 1: "Yes."}}
        weight: 0.5
    heldout_fraction: 0.1
"""

CONVERSATIONS = StageKind(
    config=ConversationsConfig,
    function="cluster.conversations_stage:run",
    summary="read conversations and split them by prompt",
    makes=(
        "Conversations as Parquet: `train.parquet` and `heldout.parquet`, each row with its file, offset and line; "
        "with `keep_prompts` also prompts that nobody answered (`prompts_train.parquet`, `prompts_heldout.parquet`); "
        "rows left out with the reason (`dropped.parquet`) and rows that could not be read (`quarantined.parquet`)."
    ),
    example=_EXAMPLE,
    figures=CONVERSATIONS_FIGURES,
)
