"""Both pages are one file that fetches nothing, whose contents lead somewhere, in light, dark and print."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cluster.report.compare import write_comparison
from cluster.report.page import difference, figure, percent, words
from cluster.report.write import write_report
from tests.unit.cluster.report.small_run import make_other_run, make_run

_VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What the tests ask of a page: its elements with their attributes, and that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(params=["report", "comparison"])
def text(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    first = make_run(tmp_path / "a")
    if request.param == "report":
        return Path(write_report(first)).read_text()
    return Path(write_comparison(first, make_other_run(tmp_path / "b"))).read_text()


def test_the_page_is_one_file_that_fetches_nothing(text: str) -> None:
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in page.elements}
    assert page.values("src") == []
    assert all(target.startswith("#") for name in ("href", "xlink:href") for target in page.values(name))
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles


def test_ids_are_unique_and_every_link_leads_to_one(text: str) -> None:
    page = Page(text)
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1
    links = {target[1:] for target in page.values("href")}
    assert {"content", "gates", "documents", "stages", "answers"} <= links
    assert links <= set(ids)


def test_the_contents_are_there_beside_the_text_and_folded_above_it(text: str) -> None:
    beside, above = re.findall(r'<nav class="contents contents-\w+" aria-label="Contents">(.*?)</nav>', text, re.DOTALL)
    assert above.startswith("<details><summary>")
    assert re.findall(r'href="([^"]+)"', beside) == re.findall(r'href="([^"]+)"', above)


def test_every_plot_has_a_title_and_scales(text: str) -> None:
    page = Page(text)
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert plots
    assert all(plot["viewbox"] and "width" not in plot for plot in plots)
    assert all(plot["aria-labelledby"] in page.values("id") for plot in plots)
    assert len(re.findall(r"<svg[^>]*><title[^>]*>[^<]+</title>", text)) == len(plots)


def test_dark_and_light_define_every_colour_that_is_used_and_print_is_light(text: str) -> None:
    light, dark = (
        set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)
    )
    assert light == dark
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= light
    assert "@media screen and (prefers-color-scheme: dark)" in text


def test_every_wide_table_scrolls_by_itself_or_becomes_cards_on_a_narrow_screen(text: str) -> None:
    tables = [
        (text[max(0, found.start() - 120) : found.start()], found[1]) for found in re.finditer("<table(.*?)>", text)
    ]
    assert tables
    without = [own for before, own in tables if not re.search("cards|bars", own) and "scroll" not in before]
    assert without == []


def test_figures_are_written_for_people() -> None:
    assert [figure(value) for value in (True, None, 1234567, 0.123456, 98765.4)] == [
        "yes", "–", "1,234,567", "0.1235", "98,765",
    ]  # fmt: skip
    assert [difference(value) for value in (0.25, -3, 0, None)] == ["+0.25", "−3", "0", "–"]
    assert [percent(value) for value in (0.584, 0.004, 0.0, 1.0)] == ["58%", "0.4%", "0%", "100%"]
    assert words("heldout_kl_ceiling") == "held-out KL ceiling"
