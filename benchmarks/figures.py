"""What a bar measured, and how it is shown: a table for people, one JSON line per figure for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure of one bar. It holds if `value` is at least `asked`, or at most it where `at_most` is set."""

    bar: str  # "1", "6a": the number in the issue, with a letter where a bar has several figures
    what: str
    unit: str
    value: float | None  # what is compared; None where the peer's side is missing
    asked: float
    at_most: bool = False
    ours: float | None = None
    peer: float | None = None
    note: str = ""  # inputs and counts
    module: str = "dataprep"  # the benchmark

    @property
    def holds(self) -> bool | None:
        """Whether the bar is met; None where it can't be told."""
        if self.value is None:
            return None
        return self.value <= self.asked if self.at_most else self.value >= self.asked

    def as_json(self) -> dict[str, Any]:
        """The line that other programs read."""
        value = None if self.value is None else float(f"{self.value:.5g}")
        return {"bar": f"{self.module}-{self.bar}", "value": value, "asked": self.asked, "holds": self.holds}


def print_figures(figures: Sequence[Figure]) -> None:
    """The table, the inputs behind each figure, then the JSON lines."""
    head = ("bar", "what", "ours", "peer", "figure", "asked", "holds")
    rows = [
        (
            figure.bar,
            f"{figure.what} ({figure.unit})",
            _number(figure.ours),
            _number(figure.peer),
            _number(figure.value),
            ("<= " if figure.at_most else ">= ") + _number(figure.asked),
            {True: "yes", False: "NO", None: "not measured"}[figure.holds],
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for figure in figures:
        if figure.note:
            print(f"  {figure.bar}: {figure.note}")
    for figure in figures:
        print(json.dumps(figure.as_json()))


def ratio(ours: float | None, peer: float | None) -> float | None:
    """ours / peer; None where either is missing."""
    return None if ours is None or not peer else ours / peer


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
