"""MediaWiki XML dumps, read as a stream: the latest text of each article, still in wiki markup.

Pages are cut out of the stream by their tags and each is parsed by itself. So damage costs one page, and the document
type, which may declare entities that expand to gigabytes, is never read: a page that uses such an entity is
quarantined.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote
from xml.etree import ElementTree

from cluster.contracts.compression import DamagedStream, decompressed
from cluster.contracts.records import Quarantined
from dataprep.sources.formats import Codec
from dataprep.sources.records import Provenance, SourceRecord, Unwanted, WikiPage

_OPEN, _CLOSE = b"<page>", b"</page>"
_BASE_URL = re.compile(rb"<base>([^<]{1,1000}/)[^</]*</base>")
_MAX_TAGS = 100_000  # of one page; its text holds none, since it is escaped
_ARTICLES = "0"  # the namespace


def read_mediawiki(stream: BinaryIO, uri: str, *, codec: Codec | None, max_record_bytes: int) -> Iterator[SourceRecord]:
    """The articles of a dump; their offset is that of their page, in bytes of the decompressed content.

    Pages that are no articles are unwanted: "namespace" (talk, templates, categories, ...), "redirect", "content_model"
    (not wikitext). Quarantined are pages as "bad_xml" or "record_too_large", a file without any as "not_mediawiki", and
    the rest of a file that can't be decompressed with the reason of its `DamagedStream`.
    """
    base_url: str | None = None
    offset = 0
    found_pages = False
    try:
        for begin, content in _contents(decompressed(stream, codec), max_record_bytes):
            offset = begin + len(content or b"")
            if content is None:
                yield Quarantined(uri, begin, "record_too_large", f"a page over {max_record_bytes} bytes")
            elif content.startswith(_OPEN):
                yield _record(content, uri, begin, base_url)
            else:
                base = _BASE_URL.search(content)
                base_url = base[1].decode(errors="replace") if base else None
                continue
            found_pages = True
    except DamagedStream as damage:
        yield Quarantined(uri, offset, damage.reason, damage.detail)
    else:
        if not found_pages:
            yield Quarantined(uri, 0, "not_mediawiki", "no <page> in the file")


def _contents(chunks: Iterator[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(offset, content) of what stands before the first page, and of each page; None for one over `max_bytes`."""
    start, skipped, buffer = 0, 0, b""
    for chunk in chunks:
        buffer += chunk
        position = 0
        while (following := buffer.find(_OPEN, position if skipped else position + 1)) >= 0:
            too_large = skipped or following - position > max_bytes
            yield start, None if too_large else buffer[position:following]
            start, position, skipped = start + skipped + following - position, following, 0
        buffer = buffer[position:]
        if len(buffer) > max_bytes:
            kept = len(_OPEN) - 1
            skipped += len(buffer) - kept
            buffer = buffer[-kept:]
    if buffer:
        yield start, None if skipped else buffer


def _record(content: bytes, uri: str, offset: int, base_url: str | None) -> WikiPage | Unwanted | Quarantined:
    end = content.rfind(_CLOSE)
    if end < 0:
        return Quarantined(uri, offset, "bad_xml", "a page without an end")
    if content.count(b"<") > _MAX_TAGS:
        return Quarantined(uri, offset, "bad_xml", f"more than {_MAX_TAGS} tags in a page")
    try:
        page = ElementTree.fromstring(content[: end + len(_CLOSE)])
    except ElementTree.ParseError as error:
        return Quarantined(uri, offset, "bad_xml", str(error))
    title = page.findtext("title") or ""
    url = base_url + quote(title.replace(" ", "_"), safe="/:(),") if base_url else None
    revisions = page.findall("revision")
    revision = revisions[-1] if revisions else page
    place = Provenance(uri, offset, url, revision.findtext("timestamp"), title)
    if page.findtext("ns", _ARTICLES) != _ARTICLES:
        return Unwanted(place, "namespace", f"namespace {page.findtext('ns')}: {title}")
    if page.find("redirect") is not None:
        return Unwanted(place, "redirect", title)
    if revision.findtext("model", "wikitext") != "wikitext":
        return Unwanted(place, "content_model", f"{revision.findtext('model')}: {title}")
    return WikiPage(place, revision.findtext("text") or "")
