"""Drops documents by where they come from: listed domains with their subdomains, and listed words in the URL.

RefinedWeb (Penedo et al. 2023, appendix G.1) and FineWeb begin with such lists. A word is a run of ASCII letters and
digits, so "sex" is found in "/sex-shop/" and not in "/essex/".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import numpy as np

from cluster.contracts.errors import InputError
from dataprep.filters.config import WORD, UrlBlocklistSettings, domain_of
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.filters.word_lists import listed

NAME = "url_blocklist"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = ("blocked_domain", "blocked_words")  # 0 or 1; how many different words
REASONS: tuple[str, ...] = ("url_domain", "url_word")
_LIMITS = [Limit(reason, score, most=0) for reason, score in zip(REASONS, SCORES, strict=True)]
_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)")
_BARE_HOST = re.compile(r"((?:[\w-]+\.)+[\w-]+)\.?(?::\d+)?(?=[/?#]|$)")  # as in "example.org/x", without a scheme


class UrlBlocklist:
    """The rule with its lists, which are read once."""

    def __init__(self, settings: UrlBlocklistSettings) -> None:
        """Raises `InputError` for a list that can't be read, and an entry that is no domain or no word."""
        self.domains = frozenset(map(_domain, listed(settings.domains, settings.domain_files)))
        self.words = listed(settings.words, settings.word_files)
        wrong = sorted(word for word in self.words if not WORD.fullmatch(word))
        if wrong:
            raise InputError(f"url_blocklist: {wrong[0]!r} is no word; give letters a to z and digits alone")

    def judge(self, urls: Sequence[str | None]) -> Judged:
        """Judge each document by its URL; those without one pass."""
        scores = Scores(SCORES, np.zeros((len(SCORES), len(urls))))
        for d, url in enumerate(urls):
            if url:
                url = url.lower()
                scores["blocked_domain"][d] = self._lists_domain_of(url)
                if self.words:
                    scores["blocked_words"][d] = len(self.words.intersection(WORD.findall(unquote(url))))
        return Judged(first_failing(scores, _LIMITS), REASONS, scores)

    def _lists_domain_of(self, url: str) -> bool:
        host = host_of(url)
        while host:
            if host in self.domains:
                return True
            _, _, host = host.partition(".")
        return False


def host_of(url: str) -> str:
    """The host name of a URL, in lower case, without user, port and final dot; "" where there is none.

    The URL may lack its scheme and have white space around it. Letters beyond ASCII become punycode, so that the two
    ways to write an international name are one.
    """
    url = url.strip().lower()
    match = _HOST.match(url) or _BARE_HOST.match(url)
    return _punycode(match[1].rstrip(".")) if match else ""


def _punycode(host: str) -> str:
    """A host name in ASCII (RFC 3492), or as it is where that can't be done."""
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def _domain(entry: str) -> str:
    try:
        return _punycode(domain_of(entry))
    except ValueError as error:
        raise InputError(f"url_blocklist: {error}") from error
