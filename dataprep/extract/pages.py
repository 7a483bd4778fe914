"""Records with pages become records with texts, many at a time, in a child process that can be killed.

The extractors are native code that may hang, crash or eat memory (`killable_process.py`); a page that makes them do so
is quarantined, and the others are extracted all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from cluster.contracts.records import Quarantined
from dataprep.extract.html import EXTRACTORS, Extracted, UnreadablePage, readable_html
from dataprep.extract.wikitext import plain_text
from dataprep.killable_process import Failure, KillableMap
from dataprep.sources.config import ExtractorName, ReadLimits
from dataprep.sources.records import HtmlPage, PlainText, Provenance, SourceRecord, Unwanted, WikiPage

_BATCH_RECORDS = 256  # the most that are extracted together
_BATCH_SIZE = 4 << 20  # bytes of pages and characters of texts; a batch ends with the record that reaches it
_SMALL_PAGE = (b"<html><body><p>A page to load all code with.</p></body></html>", None)

Markup = tuple[bytes, str | None] | str  # of HTML the body and the charset; or wiki markup


@dataclass(frozen=True)
class PageExtractor:
    """What the child process does with one page; picklable."""

    extractor: ExtractorName
    max_depth: int
    max_attributes: int

    def __call__(self, page: Markup) -> Extracted | UnreadablePage:
        """The text of a page, or why there is none."""
        try:
            return Extracted(*(_encodable(value) for value in self._extract(page)))
        except UnreadablePage as problem:
            return problem

    def _extract(self, page: Markup) -> Extracted:
        if isinstance(page, str):
            return Extracted(None, plain_text(page))
        body, charset = page
        html = readable_html(body, charset, max_depth=self.max_depth, max_attributes=self.max_attributes)
        return EXTRACTORS[self.extractor](html)


def _encodable(value: Any) -> Any:
    """A text with lone surrogates replaced, which character references may name and UTF-8 can't hold; None stays."""
    if value is None or value.isascii():
        return value
    return value.encode(errors="surrogatepass").decode(errors="replace")


PageExtraction = KillableMap[Markup, Extracted | UnreadablePage]


@lru_cache(maxsize=1)
def page_extraction(extractor: PageExtractor, timeout_s: float, memory_bytes: int) -> PageExtraction:
    """The child process, kept from shard to shard: to start one takes longer than the work of many a shard."""
    return KillableMap(extractor, warm_up=_SMALL_PAGE, timeout_s=timeout_s, memory_bytes=memory_bytes)


def extracted(
    records: Iterable[SourceRecord], extractor_name: ExtractorName, limits: ReadLimits
) -> Iterator[PlainText | Unwanted | Quarantined]:
    """The records in their order, with the pages among them turned into texts.

    A page that gives no text is quarantined: with the reason of its `UnreadablePage`, or with that of a
    `killable_process.Failure` ("timeout", "memory", "crashed", "failed").
    """
    extractor = PageExtractor(extractor_name, limits.max_html_depth, limits.max_html_attributes)
    extraction = page_extraction(extractor, limits.extract_timeout_s, int(limits.extract_memory_gib * 2**30))
    batch: list[SourceRecord] = []
    size = 0
    for record in records:
        if not batch and not isinstance(record, HtmlPage | WikiPage):
            yield record  # waits for no page
            continue
        batch.append(record)
        size += _size(record)
        if size >= _BATCH_SIZE or len(batch) >= _BATCH_RECORDS:
            yield from _with_texts(batch, extraction)
            batch, size = [], 0
    yield from _with_texts(batch, extraction)


def _size(record: SourceRecord) -> int:
    """About how much a record holds: bytes of a page, characters of a text."""
    match record:
        case HtmlPage():
            return len(record.body)
        case WikiPage():
            return len(record.wikitext)
        case PlainText():
            return len(record.text)
    return 0


def _with_texts(batch: list[SourceRecord], extraction: PageExtraction) -> Iterator[PlainText | Unwanted | Quarantined]:
    outcomes = iter(extraction([_markup(record) for record in batch if isinstance(record, HtmlPage | WikiPage)]))
    for record in batch:
        if isinstance(record, HtmlPage | WikiPage):
            yield _with_text(record.provenance, next(outcomes))
        else:
            yield record


def _markup(page: HtmlPage | WikiPage) -> Markup:
    return page.wikitext if isinstance(page, WikiPage) else (page.body, page.charset)


def _with_text(place: Provenance, outcome: Extracted | UnreadablePage | Failure) -> PlainText | Quarantined:
    if not isinstance(outcome, Extracted):
        return Quarantined(place.uri, place.offset, outcome.reason, outcome.detail, place.url)
    about = replace(
        place, url=place.url or outcome.url, date=place.date or outcome.date, title=place.title or outcome.title
    )
    return PlainText(about, outcome.text)
