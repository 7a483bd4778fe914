"""Preference pairs as token ids, for the reward model and for DPO alike.

A pair is a prompt with two answers. Both answers end with the token that ends a turn, as a policy's sampled answers do
(`encode_prompt_answer`). A pair that is too long is left out whole, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.contracts.errors import InputError
from training.conversations.rendering import encode_prompt_answer
from training.feedback.pairs import PreferencePair, read_pairs

# Global batches among which pairs of like length are brought together; each pair weighs the same in its batch.
WINDOW_BATCHES = 8


@dataclass(frozen=True)
class EncodedPair:
    """A prompt and its two answers; each answer ends with the token that ends the turn."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def chosen(self) -> list[int]:
        """The whole conversation with the chosen answer."""
        return self.prompt_ids + self.chosen_ids

    @property
    def rejected(self) -> list[int]:
        """The whole conversation with the rejected answer."""
        return self.prompt_ids + self.rejected_ids

    def answer_mask(self, sequence: Sequence[int]) -> list[bool]:
        """Which tokens of `chosen` or `rejected` are the answer's."""
        return [position >= len(self.prompt_ids) for position in range(len(sequence))]

    @property
    def length(self) -> int:
        """Tokens of the longer side."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs that fit, with the rows they came from, and how many did not."""

    pairs: list[EncodedPair]
    rows: list[PreferencePair]
    num_too_long: int


def encode_pairs(tokenizer: Any, rows: Sequence[PreferencePair], *, max_length: int) -> EncodedPairs:
    """Tokens of all pairs of at most `max_length` tokens. A cut answer would be judged for missing its end."""
    pairs, kept = [], []
    previous: PreferencePair | None = None
    for row in rows:
        # An answer's pairs stand together: its chosen side is encoded once.
        if previous is None or (row["prompt"], row["chosen"]) != (previous["prompt"], previous["chosen"]):
            prompt_ids, chosen_ids = encode_prompt_answer(tokenizer, row["prompt"], row["chosen"][0])
        previous = row
        _, rejected_ids = encode_prompt_answer(tokenizer, row["prompt"], row["rejected"][0])
        pair = EncodedPair(prompt_ids, chosen_ids, rejected_ids)
        if pair.length <= max_length:
            pairs.append(pair)
            kept.append(row)
    return EncodedPairs(pairs, kept, len(rows) - len(pairs))


def read_encoded_pairs(
    uri: str, tokenizer: Any, *, max_length: int, more_train_rows: Sequence[PreferencePair] = ()
) -> tuple[EncodedPairs, EncodedPairs]:
    """(training pairs, held-out pairs) of the preferences artifact at `uri`, as tokens.

    `more_train_rows` follow the artifact's own training pairs. Raises `InputError` where a side has no pair of at most
    `max_length` tokens.
    """
    train_rows, heldout_rows = read_pairs(uri)
    train = encode_pairs(tokenizer, [*train_rows, *more_train_rows], max_length=max_length)
    heldout = encode_pairs(tokenizer, heldout_rows, max_length=max_length)
    if not train.pairs or not heldout.pairs:
        raise InputError(f"no pair of {uri} has at most max_length {max_length} tokens on either side")
    return train, heldout
