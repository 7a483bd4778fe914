"""WARC files (ISO 28500), plain or with one gzip member per record, as crawlers write them.

Framing is our own and parsing is FastWARC's: a record is cut out by its gzip member and its Content-Length before
anything parses it, so a damaged record or a wrong length costs that record and never reaches into the
next one. After damage, reading goes on at the next place where a record begins.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from fastwarc.warc import WarcRecord, WarcRecordType

from cluster.contracts.records import Quarantined
from dataprep.sources.compression import READ_BYTES, DamagedStream, GzipMember
from dataprep.sources.records import HtmlPage, Provenance, SourceRecord, Unwanted

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})

_MAX_HEADER_BYTES = 1 << 16
_OTHER_HEADERS_BYTES = 1 << 17  # room for the WARC and HTTP headers beside a body of the allowed size
_HEADER_END, _TRAILER = b"\r\n\r\n", b"\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_GZIP_MAGIC = b"\x1f\x8b\x08"
_SEARCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Frame:
    """The bytes of one record, or why there are none."""

    offset: int  # in the file
    content: bytes
    problem: str = ""  # the reason of a quarantine
    detail: str = ""


def read_warc(
    stream: BinaryIO, uri: str, *, codec: Literal["gz"] | None, max_record_bytes: int
) -> Iterator[SourceRecord]:
    """The responses of a WARC file; `stream` must be seekable. Other record types (warcinfo, request) are no documents.

    Unwanted: "http_status" (not 200), "content_type" (not HTML), "empty_body". Quarantined, with the
    byte offset in the file: "truncated_gz", "corrupt_gz", "truncated_record", "bad_warc_header",
    "bad_content_length", "bad_http", "record_too_large".
    """
    frames = _gzip_frames(stream, max_record_bytes) if codec == "gz" else _plain_frames(stream, max_record_bytes)
    for frame in frames:
        if frame.problem:
            yield Quarantined(uri, frame.offset, frame.problem, frame.detail)
        elif (record := _parse(frame, uri, max_record_bytes)) is not None:
            yield record


def _parse(frame: _Frame, uri: str, max_record_bytes: int) -> SourceRecord | None:
    try:
        record = WarcRecord.from_bytes(frame.content)
    except OSError as error:
        return Quarantined(uri, frame.offset, "bad_warc_header", str(error))
    if record.record_type != WarcRecordType.response:
        return None
    try:
        record.parse_http(auto_decode="all")
        body = record.reader.read(max_record_bytes + 1)
    except (OSError, ValueError) as error:
        return Quarantined(uri, frame.offset, "bad_http", str(error))
    if record.http_headers is None or record.http_headers.status_code is None:
        return Quarantined(uri, frame.offset, "bad_http", "the response has no HTTP status line")
    if len(body) > max_record_bytes:
        return Quarantined(uri, frame.offset, "record_too_large", f"a body over {max_record_bytes} bytes")
    place = Provenance(uri, frame.offset, record.headers.get("WARC-Target-URI"), record.headers.get("WARC-Date"))
    status, content_type = record.http_headers.status_code, record.http_content_type
    if status != 200:
        return Unwanted(place, "http_status", f"status {status}")
    if content_type not in HTML_TYPES:
        return Unwanted(place, "content_type", f"content type {content_type}")
    if not body.strip():
        return Unwanted(place, "empty_body")
    return HtmlPage(place, body, record.http_charset)


def _gzip_frames(stream: BinaryIO, max_record_bytes: int) -> Iterator[_Frame]:
    """The records of each gzip member. After damage, goes on at the next member that begins with a record."""
    limit = max_record_bytes + _OTHER_HEADERS_BYTES
    start, unread = 0, b""
    while True:
        content, problem, detail = bytearray(), "", ""
        member = GzipMember()
        try:
            while not member.ended:
                unread = unread or stream.read(READ_BYTES)
                if not unread:
                    break
                for piece in member.feed(unread):
                    content += piece
                    if len(content) > limit:
                        raise DamagedStream("record_too_large", f"over {limit} bytes in one gzip member")
                unread = member.rest
        except DamagedStream as damage:
            problem, detail = damage.reason, damage.detail
        if not problem and not member.ended:
            if stream.tell() == start:
                return
            problem, detail = "truncated_gz", "the file ends inside a record"
        if problem:
            yield _Frame(start, b"", problem, detail)
            following = _next_member(stream, start + 1)
            if following is None:
                return
            start, unread = following, b""
            stream.seek(start)
            continue
        for frame in _plain_frames(io.BytesIO(content), max_record_bytes):
            yield _Frame(start, frame.content, frame.problem, frame.detail)
        start = stream.tell() - len(unread)


def _plain_frames(stream: BinaryIO, max_record_bytes: int) -> Iterator[_Frame]:
    """Records one after the other, uncompressed. After damage, goes on at the next "WARC/" behind an end of record."""
    end = stream.seek(0, io.SEEK_END)
    start = 0
    while start < end:
        frame, following = _frame_at(stream, start, end, max_record_bytes)
        yield frame
        if following is None:
            found = _find(stream, start + 1, _TRAILER + b"WARC/")
            following = end if found is None else found + len(_TRAILER)
        start = following


def _frame_at(stream: BinaryIO, start: int, end: int, max_record_bytes: int) -> tuple[_Frame, int | None]:
    """The record that begins at `start`, and where the next one does (None: its length can't be trusted)."""
    stream.seek(start)
    header = stream.read(_MAX_HEADER_BYTES)
    header_size = header.find(_HEADER_END) + len(_HEADER_END)
    length = _CONTENT_LENGTH.search(header, 0, header_size)
    if not header.startswith(b"WARC/") or header_size < len(_HEADER_END) or length is None:
        return _Frame(start, b"", "bad_warc_header", header[:80].decode("latin-1")), None
    size = header_size + int(length[1])
    if start + size > end:
        return _Frame(start, b"", "truncated_record", f"{size} bytes announced, {end - start} there"), None
    stream.seek(start + size)
    if stream.read(len(_TRAILER)) not in (_TRAILER, b""):
        return _Frame(start, b"", "bad_content_length", f"the record goes on after {int(length[1])} bytes"), None
    if size > max_record_bytes + _OTHER_HEADERS_BYTES:
        frame = _Frame(start, b"", "record_too_large", f"{size} bytes; {max_record_bytes} allowed")
    else:
        stream.seek(start)
        frame = _Frame(start, stream.read(size))
    return frame, start + size + len(_TRAILER)


def _next_member(stream: BinaryIO, start: int) -> int | None:
    """Where the next gzip member that begins with "WARC/" lies."""
    while (found := _find(stream, start, _GZIP_MAGIC)) is not None:
        stream.seek(found)
        try:
            head = next(GzipMember().feed(stream.read(READ_BYTES)), b"")
        except DamagedStream:
            head = b""
        if head.startswith(b"WARC/"):
            return found
        start = found + 1
    return None


def _find(stream: BinaryIO, start: int, pattern: bytes) -> int | None:
    """The offset of `pattern` at or after `start`."""
    stream.seek(start)
    window = b""
    while chunk := stream.read(_SEARCH_BYTES):
        window += chunk
        if (found := window.find(pattern)) >= 0:
            return start + found
        kept = len(pattern) - 1
        start += len(window) - kept
        window = window[-kept:]
    return None
