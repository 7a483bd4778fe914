"""The report's plots, as SVG text that goes straight into the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_INK, _BAR, _LINE = "#444", "#4c78a8", "#4c78a8"


def bar_chart(values: Mapping[str, int], label: str) -> str:
    """Horizontal bars, first on top, each with its count."""
    figure, axes = _figure(7.2, 0.45 + 0.27 * len(values))
    names, counts = list(values), list(values.values())
    bars = axes.barh(range(len(names)), counts, color=_BAR, height=0.7)
    axes.bar_label(bars, labels=[f"{count:,}" for count in counts], padding=3, fontsize=8, color=_INK)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(counts, default=1) * 1.12 or 1)
    axes.set_xlabel(label, fontsize=8, color=_INK)
    return _svg(figure)


def curve_panels(rows: Sequence[Mapping[str, Any]], panels: Sequence[tuple[str, str]]) -> str | None:
    """Curves over steps, a panel per (key, label) that occurs in the rows; None if none does."""
    from matplotlib.figure import Figure

    found = [(key, label) for key, label in panels if any(isinstance(r.get(key), int | float) for r in rows)]
    if not found:
        return None
    figure = Figure(figsize=(4.2 * len(found), 2.4), layout="constrained")
    for index, (key, label) in enumerate(found, 1):
        axes = figure.add_subplot(1, len(found), index)
        points = [(r.get("step", i), r[key]) for i, r in enumerate(rows) if isinstance(r.get(key), int | float)]
        steps, values = zip(*points, strict=True)
        dots = "." if len(points) < 40 else ""
        axes.plot(steps, values, color=_LINE, linewidth=1.2, marker=dots)
        axes.set_ylabel(label, fontsize=8, color=_INK)
        axes.set_xlabel("step", fontsize=8, color=_INK)
        _plain(axes)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # imported late: `plan` and `run` start without it

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
