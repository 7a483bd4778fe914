"""WARC files (ISO 28500): crawls (WARC) and the texts that were extracted from them (WET).

A file is plain, or compressed record by record (gzip, zstd). `warc_frames.py` cuts it into records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc.warc import WarcRecord, WarcRecordType

from cluster.contracts.records import Quarantined
from dataprep.sources.formats import Codec
from dataprep.sources.records import HtmlPage, PlainText, Provenance, SourceRecord, Unwanted
from dataprep.sources.warc_frames import Frame, compressed_frames, plain_frames

# Record types that are about the crawl and hold nothing that was crawled.
_WITHOUT_CONTENT = (WarcRecordType.warcinfo, WarcRecordType.request, WarcRecordType.metadata)
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_MAX_CONTENT_TYPE = 1024  # characters of the header that are looked at
_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([A-Za-z0-9._:-]+)""", re.IGNORECASE)


def read_warc(stream: BinaryIO, uri: str, *, codec: Codec | None, max_record_bytes: int) -> Iterator[SourceRecord]:
    """The pages (responses, resources) and texts (conversions) of a WARC file; `stream` must be seekable.

    Records about the crawl (warcinfo, request, metadata) are skipped. Those that are no pages are unwanted:
    "http_status" (not 200), "content_type" (not HTML), "empty_body", "record_type" (revisits and the like).
    Quarantined, with their byte offset in the file, are "truncated_gz", "corrupt_gz" (or zst), "truncated_record",
    "bad_warc_header", "bad_content_length", "bad_http", "bad_utf8" (of a text) and "record_too_large".
    """
    frames = plain_frames(stream, max_record_bytes)
    if codec is not None:
        frames = compressed_frames(stream, codec, max_record_bytes)
    for frame in frames:
        if frame.problem:
            yield Quarantined(uri, frame.offset, frame.problem, frame.detail)
        elif (record := _parse(frame, uri, max_record_bytes)) is not None:
            yield record


def _parse(frame: Frame, uri: str, max_record_bytes: int) -> SourceRecord | None:
    try:
        record = WarcRecord.from_bytes(frame.content)
    except OSError as error:
        return Quarantined(uri, frame.offset, "bad_warc_header", str(error))
    place = Provenance(uri, frame.offset, record.headers.get("WARC-Target-URI"), record.headers.get("WARC-Date"))
    if record.record_type == WarcRecordType.conversion:
        return _conversion(record, place, max_record_bytes)
    if record.record_type == WarcRecordType.response:
        return _response(record, place, max_record_bytes)
    if record.record_type == WarcRecordType.resource:
        return _resource(record, place, max_record_bytes)
    if record.record_type in _WITHOUT_CONTENT:
        return None
    return Unwanted(place, "record_type", f"a WARC record of type {record.headers.get('WARC-Type')}")


def _conversion(record: WarcRecord, place: Provenance, max_record_bytes: int) -> SourceRecord:
    """A record of a WET file, whose text is UTF-8 by definition."""
    body = record.reader.read(max_record_bytes + 1)
    if len(body) > max_record_bytes:
        return Quarantined(
            place.uri, place.offset, "record_too_large", f"a text over {max_record_bytes} bytes", place.url
        )
    try:
        return PlainText(place, body.decode())
    except UnicodeDecodeError as error:
        return Quarantined(place.uri, place.offset, "bad_utf8", str(error), place.url)


def _resource(record: WarcRecord, place: Provenance, max_record_bytes: int) -> SourceRecord:
    """What was fetched without HTTP, or is kept without its headers: the record's own type says what it is."""
    body = record.reader.read(max_record_bytes + 1)
    if len(body) > max_record_bytes:
        return Quarantined(
            place.uri, place.offset, "record_too_large", f"a body over {max_record_bytes} bytes", place.url
        )
    content_type = (record.headers.get("Content-Type") or "application/octet-stream")[:_MAX_CONTENT_TYPE]
    essence = content_type.partition(";")[0].strip().lower()
    if essence not in HTML_TYPES:
        return Unwanted(place, "content_type", f"content type {essence}")
    if not body.strip():
        return Unwanted(place, "empty_body")
    charset = _CHARSET.search(content_type)
    return HtmlPage(place, body, charset[1] if charset else None)


def _response(record: WarcRecord, place: Provenance, max_record_bytes: int) -> SourceRecord:
    uri, offset = place.uri, place.offset
    try:
        record.parse_http(auto_decode="all")
        body = record.reader.read(max_record_bytes + 1)
    except (OSError, ValueError) as error:
        return Quarantined(uri, offset, "bad_http", str(error), place.url)
    if record.http_headers is None or record.http_headers.status_code is None:
        return Quarantined(uri, offset, "bad_http", "the response has no HTTP status line", place.url)
    if len(body) > max_record_bytes:
        return Quarantined(uri, offset, "record_too_large", f"a body over {max_record_bytes} bytes", place.url)
    status, content_type = record.http_headers.status_code, record.http_content_type
    if status != 200:
        return Unwanted(place, "http_status", f"status {status}")
    if content_type not in HTML_TYPES:
        return Unwanted(place, "content_type", f"content type {content_type}")
    if not body.strip():
        return Unwanted(place, "empty_body")
    return HtmlPage(place, body, record.http_charset)
