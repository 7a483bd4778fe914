"""Rows of feedback of every kind, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.contracts.records import Message
from training.feedback.rows import Answer, Label, PreferencePair, Ranking, Scores


def said(text: str) -> Answer:
    return [Message(role="assistant", content=text)]


def asked(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> PreferencePair:
    return PreferencePair(
        kind="pair",
        prompt=asked(prompt),
        chosen=said(chosen),
        rejected=said(rejected),
        source="file",
        source_name="rows",
        **more,
    )


def ranking(prompt: str, answers: Sequence[str], ranks: Sequence[int], **more: Any) -> Ranking:
    return Ranking(
        kind="ranking",
        prompt=asked(prompt),
        answers=[said(answer) for answer in answers],
        ranks=list(ranks),
        source="campaign",
        source_name="spring",
        **more,
    )


def scores(prompt: str, answers: Sequence[str], values: Sequence[float], **more: Any) -> Scores:
    return Scores(
        kind="scores",
        prompt=asked(prompt),
        answers=[said(answer) for answer in answers],
        scores=list(values),
        source="model",
        source_name="judge",
        **more,
    )


def label(prompt: str, answer: str, value: bool, **more: Any) -> Label:
    return Label(
        kind="label", prompt=asked(prompt), answer=said(answer), label=value, source="file", source_name="rows", **more
    )
