"""Reads a task's items from its files; a row that is none is quarantined with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from cluster.contracts.records import Message, Quarantined
from training.conversations.messages import BadRow, parse_messages
from training.conversations.prompts import spread_over
from training.conversations.reading import read_placed_rows
from training.evaluate.checkers import problem_of
from training.evaluate.probes import SHOULD_ANSWER, SHOULD_REFUSE
from training.evaluate.task_config import Task


@dataclass(frozen=True)
class TaskItem:
    """One question of a task, and what its answers are held against."""

    id: str  # distinct within the task
    cluster: str  # the same for items on one prompt
    messages: tuple[Message, ...]
    group: str | None = None
    texts: tuple[str, ...] = ()  # right answers of exact_match; choices; chosen and rejected of pairs
    right: int = 0  # the place of the right one among choices
    checks: tuple[Mapping[str, Any], ...] = field(default=())
    should_refuse: bool = False


def read_task(task: Task) -> tuple[list[TaskItem], list[Quarantined]]:
    """(items, rows that are none)."""
    if not task.inputs:
        probes = [(text, True) for text in SHOULD_REFUSE] + [(text, False) for text in SHOULD_ANSWER]
        found = [
            _item({"prompt": text, "should_refuse": refuse, "group": None}, task.kind, str(place))
            for place, (text, refuse) in enumerate(probes)
        ]
        return list(spread_over(found, task.max_items)), []
    rows, quarantined = read_placed_rows(task.inputs, _parse_row)
    items: list[TaskItem] = []
    for row, uri, offset in rows:
        try:
            items.append(_item(row, task.kind, f"{len(items)}"))
        except BadRow as error:
            detail = json.dumps(row, ensure_ascii=False)[:200]
            quarantined.append(Quarantined(uri, offset, str(error), detail))
    return list(spread_over(items, task.max_items)), quarantined


def _parse_row(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRow("bad_json") from error
    if not isinstance(row, dict):
        raise BadRow("bad_json")
    return row


def _item(row: Mapping[str, Any], kind: str, identifier: str) -> TaskItem:
    """Raises `BadRow` with a reason word."""
    messages = tuple(_messages(row))
    group = row.get("group", row.get("subset"))
    if group is not None and not isinstance(group, str):
        raise BadRow("bad_group")
    shared: dict[str, Any] = {
        "id": identifier,
        "cluster": json.dumps(messages, sort_keys=True),
        "messages": messages,
        "group": group,
    }
    if kind == "exact_match":
        return TaskItem(**shared, texts=_texts(row.get("answer", row.get("answers")), "bad_answer"))
    if kind == "multiple_choice":
        choices, right = _texts(row.get("choices"), "bad_choices"), row.get("answer")
        if len(choices) < 2:
            raise BadRow("bad_choices")
        if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
            raise BadRow("bad_answer")
        return TaskItem(**shared, texts=choices, right=right)
    if kind == "checks":
        checks = row.get("checks")
        if not isinstance(checks, list) or not checks:
            raise BadRow("missing_checks")
        for check in checks:
            if problem := problem_of(check):
                raise BadRow(problem)
        return TaskItem(**shared, checks=tuple(checks))
    if kind == "pairs":
        chosen, rejected = _texts(row.get("chosen"), "bad_chosen"), _texts(row.get("rejected"), "bad_rejected")
        if chosen == rejected:
            raise BadRow("chosen_equals_rejected")
        return TaskItem(**shared, texts=(chosen[0], rejected[0]))
    if not isinstance(row.get("should_refuse"), bool):
        raise BadRow("missing_should_refuse")
    return TaskItem(**shared, should_refuse=row["should_refuse"])


def _messages(row: Mapping[str, Any]) -> list[Message]:
    if isinstance(row.get("messages"), list) and row["messages"]:
        messages = parse_messages(row["messages"])
        if messages[-1]["role"] == "assistant":
            raise BadRow("assistant_at_the_end")
        return messages
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise BadRow("missing_prompt")
    return [Message(role="user", content=row["prompt"])]


def _texts(value: Any, reason: str) -> tuple[str, ...]:
    texts: Sequence[Any] = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadRow(reason)
    return tuple(texts)
