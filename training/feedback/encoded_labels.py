"""Answers with a thumb up or down as token ids, for KTO.

An answer ends with the token that ends a turn. One that is too long is left out whole, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.errors import InputError
from training.feedback.artifact import Split, iterate_rows
from training.feedback.conversions import to_labels
from training.feedback.encoded_answers import encode_answers
from training.feedback.rows import Label


@dataclass(frozen=True)
class EncodedLabel:
    """A prompt, an answer to it, and whether that is wanted."""

    prompt_ids: list[int]
    answer_ids: list[int]
    label: bool

    @property
    def sequence(self) -> list[int]:
        """The whole conversation."""
        return self.prompt_ids + self.answer_ids


@dataclass(frozen=True)
class EncodedLabels:
    """Labels that fit, and how many there are of the others."""

    labels: list[EncodedLabel]
    num_too_long: int
    num_refused: int  # those that the chat template does not take
    num_with_gaps: int  # those in which tools or the user speak in between, which TRL's KTO can't leave out
    num_conflicting: int = 0  # answers that have thumbs both up and down, of which none is taken


def encode_labels(encoder: ChatEncoder, rows: Sequence[Label], *, max_length: int) -> EncodedLabels:
    """Tokens of all labelled answers of at most `max_length` tokens, prompt and answer together."""
    labels: list[EncodedLabel] = []
    num_too_long = num_refused = num_with_gaps = 0
    for row, encoded in zip(rows, encode_answers(encoder, [(row, row["answer"]) for row in rows]), strict=True):
        if encoded is None:
            num_refused += 1
            continue
        first = encoded.num_prompt_tokens
        if len(encoded.input_ids) > max_length:
            num_too_long += 1
        elif not all(encoded.answer_mask[first:]):
            num_with_gaps += 1
        else:
            labels.append(EncodedLabel(encoded.input_ids[:first], encoded.input_ids[first:], row["label"]))
    return EncodedLabels(labels, num_too_long, num_refused, num_with_gaps)


def read_encoded_labels(uri: str, encoder: ChatEncoder, *, max_length: int) -> tuple[EncodedLabels, EncodedLabels]:
    """(training labels, held-out labels) of the preferences artifact at `uri`, as tokens.

    Pairs and rankings give labels too (`to_labels`). Raises `InputError` where the training side lacks answers that
    are wanted, or answers that are not.
    """
    train, heldout = (_read(uri, split, encoder, max_length) for split in ("train", "heldout"))
    wanted = sum(label.label for label in train.labels)
    if not 0 < wanted < len(train.labels):
        raise InputError(
            f"{uri} has {wanted} wanted and {len(train.labels) - wanted} unwanted answers of at most max_length "
            f"{max_length} tokens to train on; both kinds are needed ({train.num_too_long} are longer, "
            f"{train.num_refused} are refused by the chat template)"
        )
    return train, heldout


def _read(uri: str, split: Split, encoder: ChatEncoder, max_length: int) -> EncodedLabels:
    rows = (row for row in iterate_rows(uri, split) if not row.get("reward_model_only", False))
    labels, counts = to_labels(rows)
    return replace(encode_labels(encoder, labels, max_length=max_length), num_conflicting=counts["conflicting"])
