"""The preferences stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.preferences.config import PreferencesConfig

PREFERENCES = StageKind(
    config=PreferencesConfig,
    function="training.preferences.stage:run",
    summary="make preference pairs from conversations",
    headline=("num_train_pairs", "num_heldout_pairs"),
)
