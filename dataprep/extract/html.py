"""HTML to a title and the main text, by resiliparse or trafilatura.

A scan (`html_depth.py`) keeps away the pages on which either would never end. Either may still hang or crash on a
page that nobody foresaw, so `pages.py` calls them in a process that can be killed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLParserException, HTMLTree

from dataprep.extract.html_depth import scan
from dataprep.sources.charset import decode_html
from dataprep.sources.config import ExtractorName

_URL_ATTRIBUTES = (('link[rel="canonical"]', "href"), ('meta[property="og:url"]', "content"))
_DATE_ATTRIBUTES = (
    ('meta[property="article:published_time"]', "content"),
    ('meta[itemprop="datePublished"]', "content"),
    ("time[datetime]", "datetime"),
)


class UnreadablePage(Exception):
    """A page that can't be extracted within the limits: `reason` is what metrics count, `detail` what people read."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Extracted(NamedTuple):  # crosses from process to process, and dataclasses are slow to pickle
    """The main text of a page, and what it says about itself."""

    title: str | None
    text: str
    url: str | None = None
    date: str | None = None  # as the page writes it; mostly ISO 8601


def readable_html(body: bytes, charset: str | None, *, max_depth: int, max_attributes: int) -> str:
    """The characters of a page, if it is one that a parser can take on.

    Raises `UnreadablePage` with the reason "html_too_deep" or "html_too_many_attributes".
    """
    html = decode_html(body, charset)
    shape = scan(html.encode(errors="replace"))
    if shape.depth > max_depth:
        raise UnreadablePage("html_too_deep", f"{shape.depth} elements open at once; {max_depth} allowed")
    if shape.attributes > max_attributes:
        raise UnreadablePage(
            "html_too_many_attributes", f"{shape.attributes} attributes in one tag; {max_attributes} allowed"
        )
    return html


def by_resiliparse(html: str) -> Extracted:
    """The main content of a page by resiliparse. Raises `UnreadablePage` with the reason "html_unparsable"."""
    try:
        tree = HTMLTree.parse(html)
        text = extract_plain_text(tree, main_content=True)
        title = (tree.title or "").strip() or None
        return Extracted(title, text, _first(tree, _URL_ATTRIBUTES), _first(tree, _DATE_ATTRIBUTES))
    except HTMLParserException as error:
        raise UnreadablePage("html_unparsable", str(error)) from error


def by_trafilatura(html: str) -> Extracted:
    """The main content of a page by trafilatura, which is much slower, and stricter about what is content."""
    import trafilatura

    page = trafilatura.bare_extraction(html, with_metadata=True, include_comments=False)
    if not isinstance(page, trafilatura.settings.Document):  # no content at all
        return Extracted(None, "")
    return Extracted(page.title or None, page.text or "", page.url or None, page.date or None)


EXTRACTORS: dict[ExtractorName, Callable[[str], Extracted]] = {
    "resiliparse": by_resiliparse,
    "trafilatura": by_trafilatura,
}


def _first(tree: HTMLTree, places: tuple[tuple[str, str], ...]) -> str | None:
    """The first of some (CSS selector, attribute) that the page has and that is not empty."""
    document = tree.document
    if document is None:
        return None
    for selector, attribute in places:
        element = document.query_selector(selector)
        value = "" if element is None else (element.getattr(attribute, "") or "").strip()
        if value:
            return value
    return None
