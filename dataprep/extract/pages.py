"""Pages to texts, many at a time, in a child process that can be killed (`killable_process.py`)."""

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

_BATCH_RECORDS = 256  # that wait for the first page of them at most
_BATCH_SIZE = 4 << 20  # bytes of pages and characters of texts; a batch ends with the record that reaches it
_SMALL_PAGE = (b"<html><body><p>A page to load all code with.</p></body></html>", None)

Markup = tuple[bytes, str | None] | str  # HTML: body and charset; wiki markup


@dataclass(frozen=True)
class PageExtractor:
    """What happens to one page, in the child."""

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
    """A text without lone surrogates, which character references may name and UTF-8 can't hold; None stays."""
    if value is None or value.isascii():
        return value
    return value.encode(errors="surrogatepass").decode(errors="replace")


PageExtraction = KillableMap[Markup, Extracted | UnreadablePage]


@lru_cache(maxsize=1)
def page_extraction(extractor: PageExtractor, timeout_s: float, memory_bytes: int) -> PageExtraction:
    """The child that serves this process, across shards: it takes longer to start than many a shard has work."""
    return KillableMap(extractor, warm_up=_SMALL_PAGE, timeout_s=timeout_s, memory_bytes=memory_bytes)


def extracted(
    records: Iterable[SourceRecord], extractor_name: ExtractorName, limits: ReadLimits
) -> Iterator[PlainText | Unwanted | Quarantined]:
    """The records in their order, pages turned into texts.

    A page without a text is quarantined: for what `readable_html` and the extractor refuse, or as "timeout",
    "memory", "crashed" or "failed" (`killable_process.Failure`).
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
