"""All answers to one prompt that are compared with one another, as token ids: what a reward model learns rankings from.

A group is what one row of feedback gives: a pair two answers and one comparison, a ranking of K answers K and up to
K (K - 1) / 2. Its answers are encoded once, and all of it is in the same optimizer step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.contracts.chat.encoder import ChatEncoder
from training.feedback.conversions import PairRule, comparisons, pairs_of_labels
from training.feedback.encoded_answers import encode_answers
from training.feedback.rows import Answer, FeedbackRow, Label, Scores

Comparison = tuple[int, int, float]  # number of the better answer, of the worse one, margin


@dataclass(frozen=True)
class EncodedGroup:
    """The conversations with each of a prompt's answers, and which is better than which."""

    sequences: list[list[int]]
    comparisons: list[Comparison]
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Tokens of the longest conversation."""
        return max(map(len, self.sequences))


@dataclass(frozen=True)
class EncodedGroups:
    """The groups that have a comparison left, and what was left out on the way."""

    groups: list[EncodedGroup]
    num_answers_too_long: int
    num_answers_refused: int


@dataclass(frozen=True)
class ScoredSequence:
    """A conversation with its score."""

    input_ids: list[int]
    score: float
    weight: float = 1.0


def encode_groups(
    encoder: ChatEncoder, rows: Sequence[FeedbackRow], rule: PairRule, *, max_length: int
) -> EncodedGroups:
    """The groups of rows of all kinds. Answers that don't fit are left out, with what they are compared with.

    Labels give pairs, as they do for policies.
    """
    labels: list[Label] = [row for row in rows if row["kind"] == "label"]
    sources: list[tuple[FeedbackRow, list[Answer], list[Comparison]]] = []
    compared: list[FeedbackRow] = [*(row for row in rows if row["kind"] != "label"), *pairs_of_labels(labels)]
    for row in compared:
        if row["kind"] == "pair":
            sources.append((row, [row["chosen"], row["rejected"]], [(0, 1, row.get("margin", 0.0))]))
        elif row["kind"] != "label":
            sources.append((row, row["answers"], comparisons(row, rule)))
    found = iter(encode_answers(encoder, [(row, answer) for row, answers, _ in sources for answer in answers]))
    groups = []
    num_too_long = num_refused = 0
    for row, answers, pairs in sources:
        places: dict[int, int] = {}  # number among all answers -> among those that fit
        sequences: list[list[int]] = []
        for number in range(len(answers)):
            encoded = next(found)
            if encoded is None:
                num_refused += 1
            elif len(encoded.input_ids) > max_length:
                num_too_long += 1
            else:
                places[number] = len(sequences)
                sequences.append(encoded.input_ids)
        left = [(places[b], places[w], margin) for b, w, margin in pairs if b in places and w in places]
        if left:
            groups.append(EncodedGroup(sequences, left, row.get("weight", 1.0)))
    return EncodedGroups(groups, num_too_long, num_refused)


def encode_scores(
    encoder: ChatEncoder, rows: Sequence[Scores], *, max_length: int
) -> tuple[list[ScoredSequence], int, int]:
    """(the scored answers that fit, how many are too long, how many the chat template refuses)."""
    given = [(row, answer, score) for row in rows for answer, score in zip(row["answers"], row["scores"], strict=True)]
    encoded = encode_answers(encoder, [(row, answer) for row, answer, _ in given])
    found = []
    num_too_long = num_refused = 0
    for (row, _, score), item in zip(given, encoded, strict=True):
        if item is None:
            num_refused += 1
        elif len(item.input_ids) > max_length:
            num_too_long += 1
        else:
            found.append(ScoredSequence(item.input_ids, score, row.get("weight", 1.0)))
    return found, num_too_long, num_refused
