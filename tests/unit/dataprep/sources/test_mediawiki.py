"""MediaWiki dumps: articles only, one page's damage is its own, entities never expand; markup becomes prose."""

import bz2
import io
import time
from typing import Any

import pytest

from cluster.contracts.records import Quarantined
from dataprep.extract.wikitext import plain_text
from dataprep.sources.mediawiki import read_mediawiki
from dataprep.sources.records import SourceRecord, Unwanted, WikiPage

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">
  <siteinfo><sitename>Wiki</sitename><base>https://wiki.example/wiki/Main_Page</base></siteinfo>
"""


def page(title: str, text: str = "Some ''text''.", *, ns: int = 0, extra: str = "", model: str = "wikitext") -> str:
    older = "<revision><timestamp>2020-01-01T00:00:00Z</timestamp><text>old</text></revision>"
    newest = (
        f"<timestamp>2026-01-02T03:04:05Z</timestamp><model>{model}</model><text xml:space='preserve'>{text}</text>"
    )
    return f"  <page><title>{title}</title><ns>{ns}</ns>{extra}{older}<revision>{newest}</revision></page>\n"


def read(content: str | bytes, codec: Any = None, limit: int = 5000) -> list[SourceRecord]:
    raw = content.encode() if isinstance(content, str) else content
    return list(read_mediawiki(io.BytesIO(raw), "m", codec=codec, max_record_bytes=limit))


def outcomes(records: list[SourceRecord]) -> list[str]:
    return [r.wikitext if isinstance(r, WikiPage) else r.reason for r in records]  # type: ignore[union-attr]


def test_articles_come_with_title_url_date_and_place_and_the_rest_is_unwanted() -> None:
    pages = [
        page("Über uns &amp; mehr", "eins &lt;b&gt;"),
        page("Talk:A", ns=1),
        page("B", extra='<redirect title="C" />'),
        page("D.css", model="css"),
        page("E", "zwei"),
    ]
    content = HEAD + "".join(pages) + "</mediawiki>\n"
    records = read(bz2.compress(content.encode()), "bz2")
    assert outcomes(records) == ["eins <b>", "namespace", "redirect", "content_model", "zwei"]
    first = records[0]
    assert isinstance(first, WikiPage)
    place = first.provenance
    assert (place.title, place.date) == ("Über uns & mehr", "2026-01-02T03:04:05Z")
    assert place.url == "https://wiki.example/wiki/%C3%9Cber_uns_%26_mehr"
    assert content.encode()[place.offset :].startswith(b"<page><title>\xc3\x9cber")
    assert isinstance(records[2], Unwanted)
    assert records[2].provenance.title == "B"


def test_a_bad_page_costs_itself() -> None:
    broken = page("X").replace("</revision>", "", 1)
    unclosed = page("Y").replace("</page>", "")
    bad_bytes = page("Z").encode().replace(b"Some", b"\xff\xfe")
    sound = [page(name, name) for name in "1235"]
    parts = [sound[0], broken, sound[1], unclosed, sound[2], bad_bytes, page("4", "4" * 6000), sound[3]]
    content = HEAD.encode() + b"".join(p if isinstance(p, bytes) else p.encode() for p in parts) + b"</mediawiki>"
    assert outcomes(read(content)) == ["1", "bad_xml", "2", "bad_xml", "3", "bad_xml", "record_too_large", "5"]
    assert outcomes(read(content[: -len(page("5", "5")) + 10]))[-1] == "bad_xml", "cut off in its last page"
    cut = read(bz2.compress(content)[:-20], "bz2")
    assert isinstance(cut[-1], Quarantined)
    assert cut[-1].reason == "truncated_bz2"


def test_entities_are_never_expanded() -> None:
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    bomb = f'<!DOCTYPE mediawiki [<!ENTITY e0 "lol">{entities}]>' + HEAD + page("A", "&e12;") + page("B", "fine")
    inside = HEAD + page("C", "x").replace("<page>", f'<page><!DOCTYPE p [<!ENTITY e0 "lol">{entities}]>')
    started = time.process_time()
    assert outcomes(read(bomb + "</mediawiki>")) == ["bad_xml", "fine"]
    assert outcomes(read(inside)) == ["bad_xml"]
    assert outcomes(read(HEAD + page("D", "<i>" * 150_000), limit=10**7)) == ["bad_xml"]
    assert time.process_time() - started < 1


def test_a_file_without_pages_is_no_dump() -> None:
    for content in ("<rss><item>x</item></rss>", HEAD + "</mediawiki>"):
        (record,) = read(content)
        assert isinstance(record, Quarantined)
        assert (record.offset, record.reason) == (0, "not_mediawiki")


def test_pages_are_the_same_however_the_content_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    content = HEAD + "".join(page(str(i), "t" * (i * 300)) for i in range(25)) + "</mediawiki>"
    whole = read(content)
    assert outcomes(whole).count("record_too_large") > 5
    for size in (1, 7, 100, 5000):
        monkeypatch.setattr("cluster.contracts.compression.CHUNK_BYTES", size)
        assert read(content) == whole, size


ARTICLE = """{{Infobox city|name=X}}
'''Berlin''' is the [[capital city|capital]] of [[Germany]].<ref>{{cite web}}</ref> It has 3&nbsp;million people.
[[File:Map.png|thumb|A map of [[Berlin]]]]
== History ==
In [[1237]], it was ''first'' mentioned<ref name="a" />. See [https://example.org the site] or https://bare.org.<br>New
line.
{| class="wikitable"
! a !! b
|}
* one
# two
<gallery>
File:a.jpg|b
</gallery>
[[Category:Cities]] [[de:Berlin]] <!-- comment --> <math>x^2</math> <code>print</code> __NOTOC__
"""


def test_markup_becomes_the_prose_a_reader_sees() -> None:
    assert [line.strip() for line in plain_text(ARTICLE).splitlines() if line.strip()] == [
        "Berlin is the capital of Germany. It has 3\xa0million people.",
        "History",
        "In 1237, it was first mentioned. See the site or https://bare.org.",
        "New",
        "line.",
        "one",
        "two",
        "print",
    ]


@pytest.mark.parametrize(
    "odd", ["", "{{", "[[", "]]}}", "{|", "<ref>", "'''''", "{{{{{{", "[[File:", "&#xD800;&bogus;"]
)
def test_odd_markup_gives_text(odd: str) -> None:
    assert isinstance(plain_text(odd * 50), str)
