"""What the readers yield: one of five things for every record they meet, so that none gets lost."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.contracts.records import Quarantined


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a document comes from."""

    uri: str  # the input file
    offset: (
        int  # bytes: of the (compressed) record in a WARC, of the line or page in decompressed content; Parquet: rows
    )
    url: str | None = None  # what the page was fetched from
    date: str | None = None  # as the source gives it; ISO 8601 in a WARC
    title: str | None = None


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """A fetched page, still to be extracted."""

    provenance: Provenance
    body: bytes
    charset: str | None  # as the server said; None: to be detected


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
    """A sound record that is no document: counted as dropped."""

    provenance: Provenance
    reason: str  # a short fixed word: "http_status"
    head: str = ""  # what was seen, for people


SourceRecord = HtmlPage | WikiPage | PlainText | Unwanted | Quarantined
