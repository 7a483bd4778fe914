"""HTML to text: title, main content, charset; pages that would hang the parser are refused at once."""

import pytest

from dataprep.charset import decode_html
from dataprep.extract import Extracted, UnreadablePage, extract

PAGE = """<html><head><title> A title </title><meta charset="{charset}"></head>
<body><nav>Home | About</nav><main><h1>Größe</h1><p>The main text of the page is this paragraph.</p>
<ul><li>one</li><li>two</li></ul></main><script>var x = '<p>not text</p>';</script></body></html>"""


def run(body: bytes, charset: str | None = None) -> Extracted:
    return extract(body, charset, max_depth=100, max_attributes=50)


def test_title_and_main_content_come_out_and_scripts_do_not() -> None:
    page = run(PAGE.format(charset="utf-8").encode())
    assert page.title == "A title"
    assert "The main text of the page is this paragraph." in page.text
    assert "Größe" in page.text
    assert "not text" not in page.text


@pytest.mark.parametrize("charset", ["iso-8859-1", "utf-8", "windows-1252"])
def test_the_charset_is_taken_from_the_page_where_the_server_names_none(charset: str) -> None:
    assert "Größe" in run(PAGE.format(charset=charset).encode(charset)).text


def test_the_servers_charset_goes_first_unless_the_bytes_contradict_it() -> None:
    latin = ("Größe und Maß der schönen Dinge " * 20).encode("iso-8859-1")
    assert decode_html(latin, "iso-8859-1") == latin.decode("iso-8859-1")
    assert decode_html(latin, "utf-8") == latin.decode("windows-1252")
    assert decode_html("häufig größer für über ".encode() * 20 + b"\xff", "utf-8").endswith("über \ufffd")
    assert decode_html(b"text", "no-such-charset") == "text"


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        (b"<div>" * 100_000, "html_too_deep"),
        (b"<p " + b" ".join(b"a%d=1" % i for i in range(100_000)) + b">", "html_too_many_attributes"),
    ],
)
def test_hopeless_pages_are_refused_with_a_reason(html: bytes, reason: str) -> None:
    with pytest.raises(UnreadablePage) as refused:
        run(html)
    assert refused.value.reason == reason


@pytest.mark.parametrize("body", [b"\0" * 50, b"<", b"\xff\xfe<\0p\0>\0x\0", b"<p>" + b"\xed\xa0\x80", b"&#xD800;&#0;"])
def test_odd_bytes_give_valid_text(body: bytes) -> None:
    run(body).text.encode()
