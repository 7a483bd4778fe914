"""Single values of rows of feedback: answers, ranks, scores, thumbs, as JSON, Parquet and CSV have them.

What is none of them raises `BadRow` with a short fixed word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cluster.contracts.records import Message
from training.conversations.messages import BadRow, parse_messages
from training.feedback.rows import Answer
from training.feedback.transcripts import is_transcript, parse_transcript

_TEXTS = ("text", "content", "response", "answer", "completion", "output")  # of an answer that is an object


def column_names(given: str | None, usual: Sequence[str]) -> Sequence[str]:
    """The column that is given, or else those that a value usually stands in."""
    return usual if given is None else (given,)


def value_of(row: Mapping[str, Any], given: str | None, usual: Sequence[str]) -> Any:
    """The value of the column that is given, or of the first usual one that the row has."""
    return next((row[name] for name in column_names(given, usual) if row.get(name) is not None), None)


def is_texts(value: Any) -> bool:
    """Whether a value is several answers, and not one of several messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def parse_answer(value: Any) -> Answer:
    """Messages of an answer, or of a whole conversation that ends with it."""
    value = decoded_messages(value)
    if value is None:
        raise BadRow("null_answer")
    if isinstance(value, str):
        if not value.strip():
            raise BadRow("empty_answer")
        return parse_transcript(value) if is_transcript(value) else [Message(role="assistant", content=value)]
    if isinstance(value, Mapping):
        if "role" in value or "from" in value:
            return parse_messages([value])
        inner = next((name for name in ("messages", "conversation", *_TEXTS) if name in value), None)
        if inner is None:
            raise BadRow("bad_answer")
        return parse_answer(value[inner])
    if not isinstance(value, list):
        raise BadRow("bad_answer")
    if not value:
        raise BadRow("empty_answer")
    return parse_messages(value)


def values_beside(
    row: Mapping[str, Any], values: Sequence[Any], given: str | None, usual: Sequence[str], reason: str
) -> list[Any]:
    """What stands for each answer: in a list of the row, or in each answer's object.

    Raises `BadRow(reason)` for a list of another length or answers of which some have none, `KeyError` where none has.
    """
    for name in column_names(given, usual):
        listed = decoded_list(row.get(name))
        if isinstance(listed, list):
            if len(listed) != len(values):
                raise BadRow(reason)
            return listed
        inside = [value[name] for value in values if isinstance(value, Mapping) and name in value]
        if inside:
            if len(inside) != len(values):
                raise BadRow(reason)
            return inside
    raise KeyError(reason)


def dense_ranks(values: Sequence[Any]) -> list[int]:
    """Ranks from 1 without gaps, in the order of the numbers given."""
    ranks = []
    for value in values:
        rank = parse_number(value, "bad_rank")
        if not rank.is_integer():
            raise BadRow("bad_rank")
        ranks.append(int(rank))
    order = {rank: place for place, rank in enumerate(sorted(set(ranks)), 1)}
    return [order[rank] for rank in ranks]


def parse_number(value: Any, reason: str) -> float:
    """A finite number, also as text, as CSV has it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRow(reason)
    try:
        number = float(value)
    except ValueError as error:
        raise BadRow(reason) from error
    if not math.isfinite(number):
        raise BadRow(reason)
    return number


def parse_thumb(value: Any) -> bool:
    """Whether a thumb is up: true, 1 or the same as text. Raises `BadRow`: null_label, bad_label."""
    if value is None:
        raise BadRow("null_label")
    if isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    if value not in (True, False):  # 1 and 0 are equal to them
        raise BadRow("bad_label")
    return bool(value)


def decoded_list(value: Any) -> Any:
    """The list that a text is as JSON, as CSV has them; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def decoded_messages(value: Any) -> Any:
    """The messages that a text is as JSON; any other list stays the text that it is, since answers are lists too."""
    found = decoded_list(value)
    is_messages = isinstance(found, list) and all(
        isinstance(m, Mapping) and ("role" in m or "from" in m) for m in found
    )
    return found if found and is_messages else value
