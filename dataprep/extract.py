"""HTML to a title and the main text, by resiliparse, behind a scan that keeps hopeless pages out of it."""

from __future__ import annotations

from dataclasses import dataclass

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLParserException, HTMLTree

from dataprep.charset import decode_html
from dataprep.markup import scan


class UnreadablePage(Exception):
    """A page that can't be extracted within the limits; `reason` is counted, `detail` shown."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a page says."""

    title: str | None
    text: str


def extract(body: bytes, charset: str | None, *, max_depth: int, max_attributes: int) -> Extracted:
    """The title and main content of a page.

    Raises `UnreadablePage`: "html_too_deep", "html_too_many_attributes", "html_unparsable".
    """
    html = decode_html(body, charset)
    shape = scan(html.encode(errors="replace"))
    if shape.depth > max_depth:
        raise UnreadablePage("html_too_deep", f"{shape.depth} elements open at once; {max_depth} allowed")
    if shape.attributes > max_attributes:
        raise UnreadablePage(
            "html_too_many_attributes", f"{shape.attributes} attributes in one tag; {max_attributes} allowed"
        )
    try:
        tree = HTMLTree.parse(html)
        text = extract_plain_text(tree, main_content=True)
        title = tree.title
    except HTMLParserException as error:
        raise UnreadablePage("html_unparsable", str(error)) from error
    return Extracted((title or "").strip() or None, text)
