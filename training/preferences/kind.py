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
        "Preference pairs in TRL's format: for training, held out, and of sentences (`pairs.jsonl`, "
        "`heldout.jsonl`, `text_pairs.jsonl`)."
    ),
    example=_EXAMPLE,
    figures=PREFERENCES_FIGURES,
)
