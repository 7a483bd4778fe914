"""The pairs of a preferences artifact, as DPO, reward models and evaluation read them, whatever kinds its rows are."""

from __future__ import annotations

from training.feedback.artifact import Split, iterate_rows, read_pair_rule
from training.feedback.conversions import to_pairs
from training.feedback.rows import PreferencePair


def read_pairs(uri: str) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(training, held-out) pairs of a preferences artifact that policies learn from, in their order.

    Rankings, scores and labels give pairs by the artifact's own rule. Raises `InputError` and `CorruptArtifact`.
    """
    return _read(uri, "train", reward_model_only=False), _read(uri, "heldout", reward_model_only=False)


def read_text_pairs(uri: str) -> list[PreferencePair]:
    """The training pairs that only reward models learn from: those of sentences."""
    return _read(uri, "train", reward_model_only=True)


def _read(uri: str, split: Split, *, reward_model_only: bool) -> list[PreferencePair]:
    rows = [row for row in iterate_rows(uri, split) if row.get("reward_model_only", False) == reward_model_only]
    return to_pairs(rows, read_pair_rule(uri, split))[0]
