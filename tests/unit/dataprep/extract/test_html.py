"""HTML to text: title, main content, charset, date; pages that would hang the parser are refused at once."""

import pytest

from dataprep.extract.html import EXTRACTORS, Extracted, UnreadablePage, by_resiliparse, readable_html
from dataprep.sources.charset import decode_html, decode_text

PAGE = """<html><head><title> A title </title><meta charset="{charset}">
<link rel="canonical" href="https://example.org/page"><meta property="article:published_time" content="2026-03-04">
</head><body><nav>Home | About</nav><main><h1>Größe</h1><p>The main text of the page is this paragraph.</p>
<p>A second paragraph follows it, so that it is long enough to be the content for every extractor, and it goes on.</p>
<ul><li>one</li><li>two</li></ul></main><script>var x = '<p>not text</p>';</script></body></html>"""


def html(body: bytes, charset: str | None = None) -> str:
    return readable_html(body, charset, max_depth=100, max_attributes=50)


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_title_text_url_and_date_come_out_and_scripts_do_not(extractor: str) -> None:
    page = EXTRACTORS[extractor](html(PAGE.format(charset="utf-8").encode()))  # type: ignore[index]
    assert page.title == {"resiliparse": "A title", "trafilatura": "Größe"}[extractor]  # which prefers the heading
    assert (page.url, page.date) == ("https://example.org/page", "2026-03-04")
    assert "The main text of the page is this paragraph." in page.text
    assert "not text" not in page.text
    assert "Home" not in page.text


@pytest.mark.parametrize("extractor", EXTRACTORS)
@pytest.mark.parametrize("page", ["", "<", "<html></html>", "<p></p>", "no markup", "<title></title>"])
def test_pages_without_content_have_little_text_and_nothing_else(extractor: str, page: str) -> None:
    result = EXTRACTORS[extractor](page)  # type: ignore[index]
    assert result.text in ("", page)
    assert (result.url, result.date) == (None, None)


@pytest.mark.parametrize("charset", ["iso-8859-1", "utf-8", "windows-1252"])
def test_the_charset_is_taken_from_the_page_where_the_server_names_none(charset: str) -> None:
    assert "Größe" in html(PAGE.format(charset=charset).encode(charset))


def test_the_servers_charset_goes_first_unless_the_bytes_contradict_it() -> None:
    latin = ("Größe und Maß der schönen Dinge " * 20).encode("iso-8859-1")
    assert decode_html(latin, "iso-8859-1") == latin.decode("iso-8859-1")
    assert decode_html(latin, "utf-8") == decode_text(latin) == latin.decode("windows-1252")
    assert decode_html(b"h\xc3\xa4ufig" * 20 + b"\xff", "utf-8").endswith("häufig\ufffd")
    for unusable in ("no-such-charset", "undefined", "base64"):
        assert decode_html(b"text", unusable) == "text"


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (b"<div>" * 100_000, "html_too_deep"),
        (b"<p " + b" ".join(b"a%d=1" % i for i in range(100_000)) + b">", "html_too_many_attributes"),
    ],
)
def test_hopeless_pages_are_refused_with_a_reason(page: bytes, reason: str) -> None:
    with pytest.raises(UnreadablePage) as refused:
        html(page)
    assert refused.value.reason == reason


@pytest.mark.parametrize("body", [b"\0" * 50, b"<", b"\xff\xfe<\0p\0>\0x\0", b"<p>" + b"\xed\xa0\x80", b"&#xD800;&#0;"])
def test_odd_bytes_give_valid_text(body: bytes) -> None:
    page: Extracted = by_resiliparse(html(body))
    page.text.encode()
