"""URLs that are one page, and URLs that are not."""

import pytest

from dataprep.signatures.url import normal_url, site, url_hashes

SAME = [
    ("http://Example.org/a", "https://www.example.org/a/"),
    ("https://example.org:443/a?id=1#part", "https://example.org/a?id=1&utm_source=x&fbclid=y"),
    ("https://user:pw@example.org", "http://example.org/"),
    ("http://example.org/#!/page/1", "https://www.example.org#!/page/1"),
    (" http://example.org/a ", "http://example.org/a"),
]
DIFFERENT = [
    ("http://example.org/a", "http://example.org/A"),
    ("http://example.org/?b=1&a=2", "http://example.org/?a=2&b=1"),
    ("http://example.org:8080/", "http://example.org/"),
    ("http://example.org/a?id=1", "http://example.org/a"),
    ("http://example.org/#!/page/1", "http://example.org/#!/page/2"),
    ("http://a.example.org/", "http://example.org/"),
    ("http://example.org/?gclidx=1", "http://example.org/"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_page(first: str, second: str) -> None:
    assert normal_url(first) == normal_url(second)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_pages(first: str, second: str) -> None:
    assert normal_url(first) != normal_url(second)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.a.org/x?y", "a.org"),
        ("http://A.org:80", "a.org"),
        ("http://a.org#!/x", "a.org"),
        ("http://[broken/x", ""),
        ("", ""),
    ],
)
def test_the_site_is_the_host(url: str, expected: str) -> None:
    assert site(url) == expected


def test_hashes_follow_the_normal_form_and_rows_without_a_url_are_marked() -> None:
    high, low, known = url_hashes(["http://a.org/", None, "https://a.org", "", "http://[broken", "http://b.org/"])
    assert known.tolist() == [True, False, True, False, True, True]
    assert (high[0], low[0]) == (high[2], low[2])
    assert len({(high[n], low[n]) for n in (0, 4, 5)}) == 3
