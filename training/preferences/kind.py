"""The preferences stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.preferences.config import PreferencesConfig
from training.preferences.report_figures import PREFERENCES_FIGURES

_EXAMPLE = """\
stages:
  preferences:
    conversations: conversations
    disturbed_per_answer: 8
    max_words: 40
    texts: [data/speeches.jsonl.zst]
    text_answers: 4000
"""

PREFERENCES = StageKind(
    config=PreferencesConfig,
    function="training.preferences.stage:run",
    summary="make preference pairs from conversations",
    makes=(
        "Rows of feedback as Parquet, of one schema for pairs, rankings, scores and labels: `train.parquet` and "
        "`heldout.parquet`. The pairs also as JSON Lines under TRL's names (`train_pairs.jsonl`, "
        "`heldout_pairs.jsonl`)."
    ),
    example=_EXAMPLE,
    figures=PREFERENCES_FIGURES,
)
