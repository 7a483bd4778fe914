"""Pages to texts, many at a time, in a child process that can be killed (`killable.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from cluster.contracts.records import Quarantined
from dataprep.config import CleanConfig, ExtractorName
from dataprep.extract import EXTRACTORS, Extracted, UnreadablePage, readable_html
from dataprep.killable import Failure, KillableMap
from dataprep.sources.records import HtmlPage, PlainText, Provenance, SourceRecord, Unwanted

_BATCH_RECORDS = 256
_BATCH_BYTES = 4 << 20
_SMALL_PAGE = (b"<html><body><p>A page to load all code with.</p></body></html>", None)

Markup = tuple[bytes, str | None]  # body, charset


@dataclass(frozen=True)
class PageExtractor:
    """What happens to one page, in the child."""

    extractor: ExtractorName
    max_depth: int
    max_attributes: int

    def __call__(self, page: Markup) -> Extracted | UnreadablePage:
        """The text of a page, or why there is none."""
        body, charset = page
        try:
            html = readable_html(body, charset, max_depth=self.max_depth, max_attributes=self.max_attributes)
            return EXTRACTORS[self.extractor](html)
        except UnreadablePage as problem:
            return problem


PageExtraction = KillableMap[Markup, Extracted | UnreadablePage]


@lru_cache(maxsize=1)
def page_extraction(extractor: PageExtractor, timeout_s: float, memory_bytes: int) -> PageExtraction:
    """The child that serves this process, across shards: it takes longer to start than many a shard has work."""
    return KillableMap(extractor, warm_up=_SMALL_PAGE, timeout_s=timeout_s, memory_bytes=memory_bytes)


def extracted(records: Iterable[SourceRecord], config: CleanConfig) -> Iterator[PlainText | Unwanted | Quarantined]:
    """The records in their order, pages turned into texts.

    A page without a text is quarantined: for what `readable_html` and the extractor refuse, or as "timeout",
    "memory", "crashed" or "failed" (`killable.Failure`).
    """
    limits = config.limits
    extractor = PageExtractor(config.extractor, limits.max_html_depth, limits.max_html_attributes)
    extraction = page_extraction(extractor, limits.extract_timeout_s, int(limits.extract_memory_gib * 2**30))
    batch: list[SourceRecord] = []
    num_bytes = 0
    for record in records:
        batch.append(record)
        num_bytes += len(record.body) if isinstance(record, HtmlPage) else 0
        if num_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_RECORDS:
            yield from _with_texts(batch, extraction)
            batch, num_bytes = [], 0
    yield from _with_texts(batch, extraction)


def _with_texts(batch: list[SourceRecord], extraction: PageExtraction) -> Iterator[PlainText | Unwanted | Quarantined]:
    outcomes = iter(extraction([(r.body, r.charset) for r in batch if isinstance(r, HtmlPage)]))
    for record in batch:
        yield _with_text(record.provenance, next(outcomes)) if isinstance(record, HtmlPage) else record


def _with_text(place: Provenance, outcome: Extracted | UnreadablePage | Failure) -> PlainText | Quarantined:
    if not isinstance(outcome, Extracted):
        return Quarantined(place.uri, place.offset, outcome.reason, outcome.detail)
    about = replace(place, url=place.url or outcome.url, date=place.date or outcome.date, title=outcome.title)
    return PlainText(about, outcome.text)
