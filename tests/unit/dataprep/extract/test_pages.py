"""Pages in a child process: records keep their order, and pages that hang or bloat it cost themselves."""

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.contracts.records import Quarantined
from dataprep.extract.pages import extracted, page_extraction
from dataprep.sources.config import ReadLimits
from dataprep.sources.records import HtmlPage, PlainText, Provenance, SourceRecord, Unwanted, WikiPage


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    page_extraction.cache_clear()


def page(number: int, body: str | bytes = "", **about: str) -> HtmlPage:
    content = body if isinstance(body, bytes) else f"<title>Page {number}</title><p>{body or f'text {number}'}".encode()
    return HtmlPage(Provenance("w", number, **about), content, "utf-8")


def run(records: list[SourceRecord], **limits: Any) -> list[PlainText | Unwanted | Quarantined]:
    return list(extracted(records, "resiliparse", ReadLimits(**limits)))  # type: ignore[arg-type]


def test_records_keep_their_order_over_many_batches() -> None:
    records: list[SourceRecord] = []
    for i in range(0, 2000, 4):
        records += [
            page(i, url="https://a.example"),
            Quarantined("w", i + 1, "bad_http"),
            PlainText(Provenance("w", i + 2), "plain"),
            Unwanted(Provenance("w", i + 3), "http_status"),
        ]
    results = run(records)
    offsets = [r.offset if isinstance(r, Quarantined) else r.provenance.offset for r in results]
    assert offsets == list(range(2000))
    first, *others = results[:4]
    assert first == PlainText(Provenance("w", 0, url="https://a.example", title="Page 0"), "text 0")
    assert others == records[1:4]


def test_texts_that_wait_for_a_page_are_held_by_size_and_others_not_at_all() -> None:
    num_read = 0

    def counted(records: list[SourceRecord]) -> Iterator[SourceRecord]:
        nonlocal num_read
        for record in records:
            num_read += 1
            yield record

    def most_held(records: list[SourceRecord]) -> int:
        nonlocal num_read
        num_read = 0
        results = extracted(counted(records), "resiliparse", ReadLimits())
        return max(num_read - given for given, _ in enumerate(results, start=1))

    text = "x" * 2**20
    texts: list[SourceRecord] = [PlainText(Provenance("w", n), text) for n in range(1, 20)]
    assert most_held(texts) == 0
    assert most_held([page(0), *texts]) == 4, "4 MiB of texts behind the page, and no more"


def test_what_the_source_says_of_a_page_goes_before_what_the_page_says() -> None:
    body = '<link rel=canonical href="https://own.example"><time datetime="2020-01-01">then</time> and a text'
    known, unknown = run([page(0, body, url="https://given.example", date="2026-01-01"), page(1, body)])
    assert isinstance(known, PlainText)
    assert isinstance(unknown, PlainText)
    assert (known.provenance.url, known.provenance.date) == ("https://given.example", "2026-01-01")
    assert (unknown.provenance.url, unknown.provenance.date) == ("https://own.example", "2020-01-01")


def test_wiki_markup_is_reduced_and_lone_surrogates_become_replacement_characters() -> None:
    wiki = WikiPage(Provenance("w", 0, title="A"), "'''bold''' and &#xD800; [[b|c]]")
    html = page(1, b"<title>&#xD800; t</title><p>x &#xDFFF; \xc3\xb6")
    article, web = run([wiki, html])
    assert isinstance(article, PlainText)
    assert isinstance(web, PlainText)
    assert (article.provenance.title, article.text) == ("A", "bold and \ufffd\ufffd\ufffd c")
    for text in (article.text, web.text, web.provenance.title or ""):
        text.encode()


def test_a_page_that_would_run_for_minutes_is_quarantined_in_time() -> None:
    """100,000 nested elements, with the scan that refuses them at once turned off."""
    slow = page(1, "<div>" * 100_000, url="http://a.org/slow")
    results = run([page(0), slow, page(2)], max_html_depth=10**6, extract_timeout_s=1)
    assert isinstance(results[1], Quarantined)
    assert results[1].url == "http://a.org/slow"
    assert [getattr(r, "text", None) or getattr(r, "reason", "") for r in results] == ["text 0", "timeout", "text 2"]


def test_a_page_that_takes_too_much_memory_is_quarantined() -> None:
    large = b"<p>a<b>b</b>" * 1_000_000
    results = run([page(0), page(1, large), page(2)], extract_memory_gib=0.2)
    reasons = [getattr(r, "text", None) or getattr(r, "reason", "") for r in results]
    assert reasons[1] in {"memory", "crashed", "html_unparsable"}
    assert (reasons[0], reasons[2]) == ("text 0", "text 2")
