"""Scores of one prompt brought together, and the scale that scores are read on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from training.feedback.conversions import identity
from training.feedback.rows import FeedbackRow, Scores

_TOGETHER = ("prompt", "tools", "topic", "weight", "source", "source_name", "score_range", "reward_model_only")


def grouped_scores(rows: Iterable[FeedbackRow]) -> list[FeedbackRow]:
    """Rows in which scores of the same prompt, from the same source, are one row with all answers.

    Files often have an answer a row. The row stands where the first one stood, and keeps its place in the file.
    """
    found: list[FeedbackRow] = []
    groups: dict[bytes, Scores] = {}
    for row in rows:
        if row["kind"] != "scores":
            found.append(row)
            continue
        key = identity({name: row.get(name) for name in _TOGETHER}, "criteria" in row)
        if key not in groups:
            groups[key] = row.copy()
            found.append(groups[key])
            continue
        group = groups[key]
        if "models" in group or "models" in row:
            group["models"] = [
                model for side in (group, row) for model in side.get("models") or [None] * len(side["answers"])
            ]
        group["answers"] = [*group["answers"], *row["answers"]]
        group["scores"] = [*group["scores"], *row["scores"]]
        if "criteria" in group:
            group["criteria"] = [*group["criteria"], *row["criteria"]]
    return found


def observed_ranges(rows: Iterable[FeedbackRow]) -> dict[str, tuple[float, float]]:
    """Name of a source -> the lowest and the highest score that rows of it have."""
    ranges: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row["kind"] == "scores":
            low, high = ranges.get(row["source_name"], (float("inf"), float("-inf")))
            ranges[row["source_name"]] = min(low, *row["scores"]), max(high, *row["scores"])
    return ranges


def with_ranges(rows: Sequence[FeedbackRow], ranges: Mapping[str, tuple[float, float]]) -> list[FeedbackRow]:
    """The rows, in which scores that know no scale have that of their source; those of unknown sources stay without."""
    found: list[FeedbackRow] = []
    for row in rows:
        if row["kind"] == "scores" and "score_range" not in row and row["source_name"] in ranges:
            row = row.copy()
            row["score_range"] = ranges[row["source_name"]]
        found.append(row)
    return found
