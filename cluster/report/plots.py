"""The report's plots. Each has a title that says what to see, and follows the page: its colours, width and font.

Curves are drawn by matplotlib as SVG whose colours are variables of the page's style sheet (`--ink`, `--series-a`,
...), so that one plot serves light, dark and print. Counts are bars that the template draws in HTML, whose text
wraps on a narrow screen.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]

MAX_POINTS = 150  # drawn one by one; more are drawn as a band with its mean, so a long run's page stays small
NUM_BINS = 100  # of the band
FIRST_FRACTION, LAST_FRACTION = 0.02, 0.1  # of a curve's points, whose means stand for its beginning and its end
_STEADY = 0.1  # a change under this fraction of the curve's whole range is not called a rise or a fall

# The page's variable for each colour that matplotlib is given. It knows no variables, so these stand for them.
_SENTINELS = {"#010101": "--ink", "#010102": "--grid", "#010103": "--series-a", "#010104": "--series-b"}
_INK, _GRID, *_SERIES = _SENTINELS
_DASHES = ("-", (0, (4, 1.6)))  # the second run is dashed: told apart without colours too


@dataclass(frozen=True)
class Series:
    """One curve: finite values by step."""

    name: str  # "" where a plot has but one
    steps: np.ndarray[Any, np.dtype[np.float64]]
    values: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def first(self) -> float:
        """The mean of the first fiftieth of its points, at least one."""
        return float(self.values[: max(1, int(len(self.values) * FIRST_FRACTION))].mean())

    @property
    def last(self) -> float:
        """The mean of the last tenth of its points, at least one."""
        return float(self.values[-max(1, int(len(self.values) * LAST_FRACTION)) :].mean())


@dataclass(frozen=True)
class Reference:
    """A value that a curve is read against, drawn as a dotted line."""

    name: str
    value: float


@dataclass(frozen=True)
class Plot:
    """What the template shows: a sentence, a note under it, the legend, and the SVG."""

    title: str
    note: str
    legend: tuple[tuple[str, str], ...]  # (CSS class of the key, what it is)
    svg: str


def read_series(rows: Rows, key: str, name: str = "") -> Series | None:
    """The curve of a figure of `metrics.jsonl`; None where no row has it as a finite number."""
    points = [
        (float(row.get("step", index)), float(row[key]))
        for index, row in enumerate(rows)
        if isinstance(row.get(key), int | float) and not isinstance(row[key], bool) and math.isfinite(row[key])
    ]
    if not points:
        return None
    steps, values = np.array(points, np.float64).T
    return Series(name, steps, values)


def curve_plot(series: Sequence[Series], label: str, reference: Reference | None = None) -> Plot:
    """One or two curves over the steps. `label`: what the vertical axis says, as "loss, nats per token"."""
    figure, axes = _figure()
    for curve, colour, dashes in zip(series, _SERIES, _DASHES, strict=False):
        if len(curve.values) > MAX_POINTS:
            steps, low, mean, high = _bins(curve)
            axes.fill_between(steps, low, high, color=colour, alpha=0.22, linewidth=0)
            axes.plot(steps, mean, color=colour, linewidth=1.8, linestyle=dashes)
        else:
            marker = "." if len(curve.values) < 40 else ""
            axes.plot(curve.steps, curve.values, color=colour, linewidth=1.6, marker=marker, linestyle=dashes)
    if reference is not None:
        axes.axhline(reference.value, color=_INK, linewidth=1.2, linestyle=(0, (1, 2)))
    axes.set_xlabel("step")
    legend = [(f"series-{letter}", curve.name) for letter, curve in zip("ab", series, strict=False) if curve.name]
    if reference is not None:
        legend.append(("reference", f"{reference.name} {figure_text(reference.value)}"))
    title = finding(series, label, reference)
    unit = label.partition(", ")[2]
    note = f"In {unit}." if unit else ""
    return Plot(title, note, tuple(legend), _svg(figure, title))


def finding(series: Sequence[Series], label: str, reference: Reference | None = None) -> str:
    """What a plot shows, as a sentence without a full stop."""
    name = label.split(",")[0]
    subject = name[:1].upper() + name[1:]
    if len(series) == 2:
        a, b = series
        first, second = figure_text(a.last), figure_text(b.last)
        if first == second:
            return f"{subject} ends at {first} in both runs"
        side = "lower" if b.last < a.last else "higher"
        apart = f"{abs(b.last - a.last):.2g}"
        return f"{subject} ends at {first} in {a.name} and at {second} in {b.name}, {side} by {apart}"
    (curve,) = series
    if curve.name:
        subject = f"{subject} of {curve.name} alone"
    if len(curve.values) == 1:
        text = f"{subject} is {figure_text(curve.last)}"
    elif abs(curve.last - curve.first) <= _STEADY * float(np.ptp(curve.values)):
        text = f"{subject} begins at {figure_text(curve.first)} and ends at {figure_text(curve.last)}: no clear change"
    else:
        verb = "falls" if curve.last < curve.first else "rises"
        text = f"{subject} {verb} from {figure_text(curve.first)} to {figure_text(curve.last)}"
    if reference is not None:
        text += f"; the {reference.name} is {figure_text(reference.value)}"
    return text


def figure_text(value: float) -> str:
    """A number of three or four digits, as a sentence has it; the minus sign is the typographer's."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def unique_ids(plot: Plot, prefix: str) -> Plot:
    """The plot with every id in its SVG begun by `prefix`: a page holds many, and matplotlib numbers each from 1."""
    svg = re.sub(r'(\bid="|aria-labelledby="|url\(#|href="#)', rf"\g<1>{prefix}-", plot.svg)
    return replace(plot, svg=svg)


def _bins(curve: Series) -> tuple[Any, Any, Any, Any]:
    """(mean step, lowest, mean, highest) of each of `NUM_BINS` stretches of as many points, but for one."""
    steps = np.array_split(curve.steps, NUM_BINS)
    values = np.array_split(curve.values, NUM_BINS)
    return (
        [part.mean() for part in steps],
        [part.min() for part in values],
        [part.mean() for part in values],
        [part.max() for part in values],
    )


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # imported late: `plan` and `run` start without it
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.tick_params(labelsize=10.5, labelcolor=_INK, color=_GRID)
    axes.xaxis.label.set(color=_INK, fontsize=10.5)
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    """The figure as an `<svg>` element: text stays text, colours are the page's, a reader's software gets the title."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "raymill", "axes.unicode_minus": True}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # its rule is for `*`: the whole page
    text = re.sub(r"font-family: [^;]*; ", "", text)  # the page's font instead
    for colour, variable in _SENTINELS.items():
        text = text.replace(colour, f"var({variable})")
    view_box = re.search(r'viewBox="[^"]+"', text)
    assert view_box is not None
    head = f'<svg class="curve" role="img" aria-labelledby="title" {view_box[0]} xmlns="http://www.w3.org/2000/svg"'
    head += f' xmlns:xlink="http://www.w3.org/1999/xlink"><title id="title">{html.escape(title)}</title>'
    return head + text[text.index(">") + 1 :]
