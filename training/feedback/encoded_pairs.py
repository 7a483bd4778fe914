"""Preference pairs as token ids, for the reward model and for DPO alike.

A pair is a prompt with two answers. Both answers end with the token that ends a turn, as a policy's sampled answers do
(`encoded_answers.py`). A pair that is too long is left out whole, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.stop_tokens import common_length
from cluster.contracts.errors import InputError
from training.feedback.encoded_answers import EncodedAnswer, encode_answers
from training.feedback.pairs import read_pairs
from training.feedback.rows import Answer, Feedback, PreferencePair

# Global batches among which pairs of like length are brought together; each pair weighs the same in its batch.
WINDOW_BATCHES = 8


@dataclass(frozen=True)
class EncodedPair:
    """A prompt and its two answers; each answer ends with the token that ends the turn.

    An answer of several messages is all from its first turn to its last. The masks tell which of its tokens the
    assistant says: not the results of tools, nor what the user says in between. None: all of them.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_mask: list[bool] | None = None
    rejected_mask: list[bool] | None = None

    @property
    def chosen(self) -> list[int]:
        """The whole conversation with the chosen answer."""
        return self.prompt_ids + self.chosen_ids

    @property
    def rejected(self) -> list[int]:
        """The whole conversation with the rejected answer."""
        return self.prompt_ids + self.rejected_ids

    @property
    def chosen_answer_mask(self) -> list[bool]:
        """Which tokens of `chosen` the assistant says in the answer."""
        return [False] * len(self.prompt_ids) + (self.chosen_mask or [True] * len(self.chosen_ids))

    @property
    def rejected_answer_mask(self) -> list[bool]:
        """Which tokens of `rejected` the assistant says in the answer."""
        return [False] * len(self.prompt_ids) + (self.rejected_mask or [True] * len(self.rejected_ids))

    @property
    def length(self) -> int:
        """Tokens of the longer side."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs that fit, with the rows they came from, and how many there are of the others."""

    pairs: list[EncodedPair]
    rows: list[PreferencePair]
    num_too_long: int
    num_refused: int = 0  # those that the chat template does not take


def encode_pairs(encoder: ChatEncoder, rows: Sequence[PreferencePair], *, max_length: int) -> EncodedPairs:
    """Tokens of all pairs of at most `max_length` tokens. A cut answer would be judged for missing its end.

    Both answers of a pair are encoded whole, so two that differ anywhere differ in their tokens.
    """
    # An answer is encoded once: pairs with the same chosen one stand together, and those of a ranking share answers.
    sides: list[tuple[Feedback, Answer]] = []
    places: dict[tuple[int, int], int] = {}  # (prompt, answer), by identity -> place in `sides`
    side_places: list[tuple[int, int]] = []  # of each row's answers
    previous: PreferencePair | None = None
    for row in rows:
        if previous is not None and _asks_for_chosen(row) == _asks_for_chosen(previous):
            places[id(row["prompt"]), id(row["chosen"])] = side_places[-1][0]
        for answer in (row["chosen"], row["rejected"]):
            if (key := (id(row["prompt"]), id(answer))) not in places:
                places[key] = len(sides)
                sides.append((row, answer))
        side_places.append(
            (places[id(row["prompt"]), id(row["chosen"])], places[id(row["prompt"]), id(row["rejected"])])
        )
        previous = row
    found = encode_answers(encoder, sides)
    pairs, kept = [], []
    num_too_long = num_refused = 0
    for row, (chosen_place, rejected_place) in zip(rows, side_places, strict=True):
        chosen, rejected = found[chosen_place], found[rejected_place]
        if chosen is None or rejected is None:
            num_refused += 1
            continue
        pair = _as_pair(chosen, rejected)
        if pair.length > max_length:
            num_too_long += 1
            continue
        pairs.append(pair)
        kept.append(row)
    return EncodedPairs(pairs, kept, num_too_long, num_refused)


def _asks_for_chosen(row: PreferencePair) -> tuple[Any, ...]:
    """All that the tokens of a pair's chosen side come from."""
    return row["prompt"], row.get("tools"), row["chosen"]


def _as_pair(chosen: EncodedAnswer, rejected: EncodedAnswer) -> EncodedPair:
    """Two answers to one prompt. Where a tokenizer joins its end with the answer, less of it is the same for both."""
    length = min(
        common_length(chosen.input_ids, rejected.input_ids), chosen.num_prompt_tokens, rejected.num_prompt_tokens
    )
    return EncodedPair(
        chosen.input_ids[:length],
        chosen.input_ids[length:],
        rejected.input_ids[length:],
        _unless_all(chosen.answer_mask[length:]),
        _unless_all(rejected.answer_mask[length:]),
    )


def _unless_all(mask: list[bool]) -> list[bool] | None:
    return None if all(mask) else mask


def read_encoded_pairs(uri: str, encoder: ChatEncoder, *, max_length: int) -> tuple[EncodedPairs, EncodedPairs]:
    """(training pairs, held-out pairs) of the preferences artifact at `uri`, as tokens.

    Raises `InputError` where a side has no pair of at most `max_length` tokens.
    """
    train_rows, heldout_rows = read_pairs(uri)
    train = encode_pairs(encoder, train_rows, max_length=max_length)
    heldout = encode_pairs(encoder, heldout_rows, max_length=max_length)
    if not train.pairs or not heldout.pairs:
        refused = train.num_refused + heldout.num_refused
        raise InputError(
            f"no pair of {uri} has at most max_length {max_length} tokens on either side"
            + (f"; {refused} are refused by the chat template" if refused else "")
        )
    return train, heldout
