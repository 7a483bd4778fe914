"""A plot says what to see, follows the page's colours, and stays small however long the run was."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

from cluster.report.plots import (
    MAX_POINTS,
    NUM_BINS,
    Reference,
    Series,
    curve_plot,
    figure_text,
    finding,
    read_series,
    unique_ids,
)

LABEL = "held-out loss, nats per token"
SVG = "{http://www.w3.org/2000/svg}"


def _series(values: Any, name: str = "") -> Series:
    return Series(name, np.arange(len(values), dtype=np.float64), np.asarray(values, np.float64))


def test_a_title_says_where_the_curve_goes_and_what_it_is_read_against() -> None:
    falling = _series([8.3, 7.0, 6.0, 5.2])
    reference = Reference("unigram entropy", 6.72)
    assert finding([falling], LABEL, reference) == "Held-out loss falls from 8.3 to 5.2; the unigram entropy is 6.72"
    assert finding([_series([-1.0, 0.5, 2.0])], "mean reward") == "Mean reward rises from −1 to 2"
    steady = _series([1.0, 3.0, 0.5, 1.05])
    assert finding([steady], "gradient norm") == "Gradient norm begins at 1 and ends at 1.05: no clear change"
    assert finding([_series([4.0])], LABEL) == "Held-out loss is 4"


def test_a_title_of_two_runs_says_which_ends_lower() -> None:
    a, b = _series([8, 5.25], "before"), _series([8, 5.0], "after")
    assert finding([a, b], LABEL) == "Held-out loss ends at 5.25 in before and at 5 in after, lower by 0.25"
    assert finding([a, a], LABEL) == "Held-out loss ends at 5.25 in both runs"
    assert finding([b], LABEL) == "Held-out loss of after alone falls from 8 to 5"


def test_ends_of_a_long_curve_are_means_so_that_one_noisy_step_does_not_decide() -> None:
    values = np.full(100, 4.0)
    values[:2], values[-10:] = 9.0, 3.0
    values[-1] = 4.0  # one bad step at the end
    series = _series(values)
    assert (series.first, round(series.last, 9)) == (9.0, 3.1)


def test_rows_without_a_finite_number_are_left_out() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": float("nan")}, {"step": 4, "loss": 1}]
    series = read_series(rows, "loss")
    assert series is not None
    assert (series.steps.tolist(), series.values.tolist()) == ([1.0, 4.0], [2.0, 1.0])
    assert read_series(rows, "kl") is None
    assert read_series([{"loss": None}, {"loss": True}], "loss") is None


def test_the_svg_has_a_title_scales_and_takes_its_colours_from_the_page() -> None:
    plot = curve_plot([_series([3, 2, 1], "a<b"), _series([3, 3, 2], "c")], LABEL, Reference("entropy", 2.5))
    root = ET.fromstring(plot.svg)
    assert root.get("viewBox")
    assert root.get("width") is None  # the style sheet decides
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == plot.title
    assert root.get("aria-labelledby") == title.get("id")
    assert {"--ink", "--grid", "--series-a", "--series-b"} == set(re.findall(r"var\((--[a-z-]+)\)", plot.svg))
    assert not re.search(r"#[0-9a-f]{6}\b", plot.svg)
    assert "DejaVu" not in plot.svg
    assert plot.legend == (("series-a", "a<b"), ("series-b", "c"), ("reference", "entropy 2.5"))


def test_ids_of_two_plots_on_one_page_do_not_clash_and_still_resolve() -> None:
    plots = [unique_ids(curve_plot([_series([3, 2, 1])], LABEL), prefix) for prefix in ("p", "q")]
    ids = [set(re.findall(r'\bid="([^"]+)"', plot.svg)) for plot in plots]
    assert ids[0]
    assert not ids[0] & ids[1]
    for plot, own in zip(plots, ids, strict=True):
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"|aria-labelledby="([^"]+)"', plot.svg)
        assert used
        assert {name for names in used for name in names if name} <= own


def test_a_long_run_is_drawn_as_a_band_that_keeps_its_spikes() -> None:
    values = np.ones(50 * NUM_BINS)
    values[1234] = 9.0
    long, short = curve_plot([_series(values)], LABEL), curve_plot([_series(values[:MAX_POINTS])], LABEL)
    assert len(long.svg) < 3 * len(short.svg)
    numbers = [int(text) for text in re.findall(r"<text[^>]*>(\d+)</text>", long.svg)]
    assert 8 in numbers  # the axis reaches the spike


def test_figures_in_sentences_have_few_digits() -> None:
    assert [figure_text(value) for value in (5.19494, -0.2029, 12345.6, 0.0)] == ["5.19", "−0.203", "12,346", "0"]
