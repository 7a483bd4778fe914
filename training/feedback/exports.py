"""Writes feedback as JSON Lines under the names that TRL's trainers take, for use outside Raymill.

Pairs have `prompt`, `chosen`, `rejected` and, where they have one, `margin` (`DPOTrainer`, `RewardTrainer`). Labels
have `prompt`, `completion` and `label` (`KTOTrainer`). All texts are lists of messages, TRL's conversational format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from training.feedback.rows import Label, PreferencePair


def pairs_jsonl(pairs: Iterable[PreferencePair]) -> bytes:
    """The pairs, one a line. A margin stands in all lines or in none, since TRL reads columns."""
    pairs = list(pairs)
    names = ["prompt", "chosen", "rejected"]
    if any("margin" in pair for pair in pairs):
        names.append("margin")
    return _lines({name: pair.get(name, 0.0) for name in names} | _tools(pair) for pair in pairs)


def labels_jsonl(labels: Iterable[Label]) -> bytes:
    """The labels, one a line."""
    return _lines(
        {"prompt": row["prompt"], "completion": row["answer"], "label": row["label"]} | _tools(row) for row in labels
    )


def _tools(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"tools": row["tools"]} if "tools" in row else {}


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)
