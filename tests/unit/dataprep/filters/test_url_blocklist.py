"""The URL blocklist on hand-made addresses."""

from pathlib import Path

import pytest

from cluster.contracts.errors import InputError
from dataprep.filters.config import UrlBlocklistSettings
from dataprep.filters.url_blocklist import UrlBlocklist, host_of


def codes(urls: list[str | None], **settings: object) -> list[int]:
    return UrlBlocklist(UrlBlocklistSettings.model_validate(settings)).judge(urls).codes_D.tolist()


def test_a_domain_stands_for_its_subdomains_and_for_nothing_else() -> None:
    urls: list[str | None] = [
        "https://example.org/x", "http://a.b.Example.ORG.:8080", "//user:pw@www.example.org?q", "https://myexample.org",
        "https://example.org.evil.net/", "https://other.net/example.org", "https://other.net/?u=//example.org", None,
        "",
    ]  # fmt: skip
    assert codes(urls, domains=["Example.org"]) == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert codes(["https://a.example.org", "https://example.org"], domains=["*.a.example.org"]) == [1, 0]


def test_a_domain_is_found_however_its_url_is_written() -> None:
    urls: list[str | None] = [
        "example.org", "EXAMPLE.ORG./x", "www.example.org:8080/x", " https://example.org ", "\thttp://Example.org/x\n",
        "example.organic/x", "x/example.org", "mailto:me@example.org", "other.net?u=example.org",
    ]  # fmt: skip
    assert codes(urls, domains=["example.org"]) == [1, 1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("listed", ["bücher.example", "Bücher.Example", "xn--bcher-kva.example"])
def test_a_domain_in_unicode_is_the_one_in_punycode(listed: str) -> None:
    urls: list[str | None] = [
        "https://bücher.example/x", "https://BÜCHER.example", "https://xn--bcher-kva.example", "shop.bücher.example/x",
        "https://bucher.example",
    ]  # fmt: skip
    assert codes(urls, domains=[listed]) == [1, 1, 1, 1, 0]


def test_words_are_whole_and_escapes_are_read() -> None:
    urls: list[str | None] = ["https://x.net/sex-shop", "https://x.net/essex", "https://sex.net", "https://x.net/%73ex"]
    assert codes(urls, words=["SEX"]) == [2, 0, 2, 2]
    assert codes(["https://x.net/a/b"], domains=["x.net"], words=["a", "b"]) == [1]


def test_lists_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "domains.txt").write_text("# ads\nads.example\n\n  Track.Example  # and why\n")
    files = {"domain_files": [str(tmp_path / "domains.txt")]}
    assert codes(["https://ads.example/", "https://x.track.example/", "https://example/"], **files) == [1, 1, 0]
    with pytest.raises(InputError, match="matches no file"):
        codes([], word_files=[str(tmp_path / "words.txt")])


def test_entries_that_can_match_nothing_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'https://example.org', '': no domain; give host names"):
        UrlBlocklistSettings(domains=("https://example.org", "fine.example", ""))
    with pytest.raises(ValueError, match="'free money', 'b!': no word"):
        UrlBlocklistSettings(words=("free money", "fine", "b!"))
    (tmp_path / "entries.txt").write_text("a b\n")
    with pytest.raises(InputError, match="'a b' is no domain; give a host name"):
        codes([], domain_files=[str(tmp_path / "entries.txt")])
    with pytest.raises(InputError, match="'a b' is no word"):
        codes([], word_files=[str(tmp_path / "entries.txt")])


def test_hosts_of_odd_addresses() -> None:
    urls = ("https://[2001:db8::1]:80/x", "mailto:me@example.org", "file:///x", "HTTP://A.b.")
    assert [host_of(url) for url in urls] == ["[2001:db8::1]", "", "", "a.b"]


def test_scores_count_what_was_found() -> None:
    blocklist = UrlBlocklist(UrlBlocklistSettings(domains=("x.net",), words=("a", "b")))
    scores = blocklist.judge(["https://x.net/a-b-a", "https://y.net/b", None]).scores
    assert scores["blocked_domain"].tolist() == [1, 0, 0]
    assert scores["blocked_words"].tolist() == [2, 1, 0]
