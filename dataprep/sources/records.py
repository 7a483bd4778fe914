"""What readers yield: for every record that they meet one of five things, so that none gets lost.

An `HtmlPage` and a `WikiPage` are still to be extracted, a `PlainText` is a document, an `Unwanted` record is none, and
a `Quarantined` one could not be read.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.contracts.records import Quarantined


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a document comes from."""

    uri: str  # the input file
    # Where in the file: the byte at which a WARC's (compressed) record begins, or a line or page in the decompressed
    # content; in Parquet the number of the row.
    offset: int
    url: str | None = None  # what the page was fetched from
    date: str | None = None  # as the source gives it; ISO 8601 in a WARC
    title: str | None = None


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """A page as it was fetched, still to be extracted."""

    provenance: Provenance
    body: bytes
    charset: str | None  # that the server named; None: it is to be detected


@dataclass(frozen=True, slots=True)
class WikiPage:
    """An article in wiki markup, still to be reduced to text."""

    provenance: Provenance
    wikitext: str


@dataclass(frozen=True, slots=True)
class PlainText:
    """A document that is text already."""

    provenance: Provenance
    text: str
    language: str | None = None  # of source code; that of other texts is identified later


@dataclass(frozen=True, slots=True)
class Unwanted:
    """A record that is sound but no document; it is counted as dropped."""

    provenance: Provenance
    reason: str  # a short fixed word: "http_status"
    head: str = ""  # what was seen, for people


SourceRecord = HtmlPage | WikiPage | PlainText | Unwanted | Quarantined
