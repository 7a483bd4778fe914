"""The preferences stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.preferences.config import PreferencesConfig
from training.preferences.report_figures import PREFERENCES_FIGURES

_EXAMPLE = """\
stages:
  preferences:                  # files of one's own: pairs, rankings, scores or labels, told by their columns
    inputs: [feedback/*.jsonl, feedback/ratings.parquet]
    heldout_fraction: 0.1
    score_range: [0, 4]
    score_weights: {helpfulness: 0.7, correctness: 0.3}
    pairs_of_a_prompt: best_and_worst

  best_of_eight:                # sampled answers, the best over the worst by a reward model: rejection sampling
    kind: preferences
    candidates: candidates
    scored_by: reward_model
    pairs_of_a_prompt: best_and_worst

  fluency:                      # pairs made of conversations
    kind: preferences
    conversations: conversations
    disturbed_per_answer: 8
    max_words: 40
    texts: [data/speeches.jsonl.zst]
    text_answers: 4000
"""

PREFERENCES = StageKind(
    config=PreferencesConfig,
    function="training.preferences.stage:run",
    summary="read feedback on answers, or make pairs of conversations",
    makes=(
        "Rows of feedback as Parquet, of one schema for pairs, rankings, scores and labels: `train.parquet` and "
        "`heldout.parquet`, each row with its file and offset. What TRL's trainers take, as JSON Lines: "
        "`train_pairs.jsonl`, `heldout_pairs.jsonl`, and `..._labels.jsonl` where there are labels. Rows left out with "
        "the reason (`dropped.parquet`), and rows that were no feedback, with file, line and reason "
        "(`quarantined.parquet`)."
    ),
    example=_EXAMPLE,
    figures=PREFERENCES_FIGURES,
)
