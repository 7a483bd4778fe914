"""Cuts the records out of a WARC file before anything parses them.

The bounds of a record are its compressed member and its Content-Length. So damage, or a wrong length, costs the record
that it is in and never reaches into the next. After damage, reading goes on at the next place where a record begins.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import zstandard

from cluster.contracts.compression import READ_BYTES, DamagedStream, Decompressor, GzipMember, ZstdFrame
from dataprep.sources.formats import Codec

_MAX_HEADER_BYTES = 1 << 16
_OTHER_HEADERS_BYTES = 1 << 17  # room for WARC and HTTP headers, beside a body of the allowed size
_SKIPPED_RECORDS = 64  # a record of up to so many times the allowed size is skipped, not taken for damage
_HEADER_END, _TRAILER = b"\r\n\r\n", b"\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_ZSTD_DICTIONARY_FRAME = 0x184D2A5D  # the skippable frame that begins a file whose records share a dictionary
_MAX_DICTIONARY_BYTES = 64 << 20
_SEARCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """The bytes of one record, or why there are none."""

    offset: int  # in the file; of the member that holds the record, where compressed
    content: bytes
    problem: str = ""  # the reason of a quarantine
    detail: str = ""


def compressed_frames(stream: BinaryIO, codec: Codec, max_record_bytes: int) -> Iterator[Frame]:
    """The records of each gzip member or zstd frame; `stream` must be seekable.

    A member is usually one record, but may be the whole file. After damage, reading goes on at the next member that
    begins with a record.
    """
    limit = max_record_bytes + _OTHER_HEADERS_BYTES
    start, unread = 0, b""
    make_member: Callable[[], Decompressor] = GzipMember
    magic = _GZIP_MAGIC
    if codec == "zst":
        dictionary, start = _zstd_dictionary(stream)
        make_member, magic = partial(ZstdFrame, dictionary), _ZSTD_MAGIC
    stream.seek(start)
    while True:
        content, skip, problem, detail = bytearray(), 0, "", ""
        member = make_member()
        try:
            while not member.ended:
                unread = unread or stream.read(READ_BYTES)
                if not unread:
                    break
                for chunk in member.feed(unread):
                    content += memoryview(chunk)[skip:]
                    skip = max(0, skip - len(chunk))
                    if len(content) > limit:
                        frames, cut = _leading_frames(bytes(content), start, max_record_bytes)
                        yield from frames
                        skip = max(0, cut - len(content))
                        del content[:cut]
                unread = member.rest
        except DamagedStream as damage:
            problem, detail = damage.reason, damage.detail
        if not problem and not member.ended:
            if stream.tell() == start:
                return
            problem, detail = f"truncated_{codec}", "the file ends inside a record"
            # Of a member of many records, those that another follows are whole.
            with suppress(DamagedStream):
                frames, cut = _leading_frames(bytes(content), start, max_record_bytes)
                yield from frames[:-1] if cut > len(content) else frames  # one that goes on behind is the cut one
        if problem:
            yield Frame(start, b"", problem, detail)
            following = _next_member(stream, start + 1, make_member, magic)
            if following is None:
                return
            start, unread = following, b""
            stream.seek(start)
            continue
        for frame in plain_frames(io.BytesIO(content), max_record_bytes):
            yield Frame(start, frame.content, frame.problem, frame.detail)
        start = stream.tell() - len(unread)


def _leading_frames(content: bytes, offset: int, max_record_bytes: int) -> tuple[list[Frame], int]:
    """(records, the bytes that they take) at the beginning of a member that is longer than a record may be.

    The bytes may be more than `content` has, by the rest of a record that is too large. Raises `DamagedStream` where no
    record can be told from the next.
    """
    limit = max_record_bytes + _OTHER_HEADERS_BYTES
    frames: list[Frame] = []
    view, start, end = io.BytesIO(content), 0, len(content)
    while True:
        size = _record_size(content[start : start + _MAX_HEADER_BYTES])
        if size is not None and start + size + len(_TRAILER) + len(b"WARC/") > end:
            if start > 0 or size <= limit:
                return frames, start
            if size > _SKIPPED_RECORDS * max_record_bytes:
                raise DamagedStream("record_too_large", f"{size} bytes; {max_record_bytes} allowed")
            return [_too_large(offset, size, max_record_bytes)], size + len(_TRAILER)
        frame, following = _frame_at(view, start, end, max_record_bytes)
        if following is None:
            found = content.find(_TRAILER + b"WARC/", start + 1)
            if found < 0 and start > 0:
                return frames, start
            if found < 0:
                raise DamagedStream("record_too_large", f"over {limit} bytes in one compressed member")
            following = found + len(_TRAILER)
        frames.append(Frame(offset, frame.content, frame.problem, frame.detail))
        start = following


def plain_frames(stream: BinaryIO, max_record_bytes: int) -> Iterator[Frame]:
    """The records of an uncompressed file. After damage, reading goes on at the next "WARC/" behind a record's end."""
    end = stream.seek(0, io.SEEK_END)
    start = 0
    while start < end:
        frame, following = _frame_at(stream, start, end, max_record_bytes)
        yield frame
        if following is None:
            found = _find(stream, start + 1, _TRAILER + b"WARC/")
            following = end if found is None else found + len(_TRAILER)
        start = following


def _frame_at(stream: BinaryIO, start: int, end: int, max_record_bytes: int) -> tuple[Frame, int | None]:
    """The record that begins at `start`, and where the next one does (None: its length can't be trusted)."""
    stream.seek(start)
    header = stream.read(_MAX_HEADER_BYTES)
    size = _record_size(header)
    if size is None:
        return Frame(start, b"", "bad_warc_header", header[:80].decode("latin-1")), None
    if start + size > end:
        return Frame(start, b"", "truncated_record", f"{size} bytes announced, {end - start} there"), None
    stream.seek(start + size)
    if stream.read(len(_TRAILER)) not in (_TRAILER, b""):
        return Frame(
            start, b"", "bad_content_length", f"its Content-Length is {size}, but no record begins behind that"
        ), None
    if size > max_record_bytes + _OTHER_HEADERS_BYTES:
        frame = _too_large(start, size, max_record_bytes)
    else:
        stream.seek(start)
        frame = Frame(start, stream.read(size))
    return frame, start + size + len(_TRAILER)


def _record_size(header: bytes) -> int | None:
    """The bytes of a record, header and content, that its first bytes announce; None where they are no WARC header."""
    header_size = header.find(_HEADER_END) + len(_HEADER_END)
    length = _CONTENT_LENGTH.search(header, 0, header_size)
    if not header.startswith(b"WARC/") or header_size < len(_HEADER_END) or length is None:
        return None
    return header_size + int(length[1])


def _too_large(offset: int, size: int, max_record_bytes: int) -> Frame:
    return Frame(offset, b"", "record_too_large", f"{size} bytes; {max_record_bytes} allowed")


def _zstd_dictionary(stream: BinaryIO) -> tuple[zstandard.ZstdCompressionDict | None, int]:
    """The dictionary that the records of a .warc.zst file share, and where the first of them begins.

    It lies in a skippable frame at the beginning, plain or compressed (https://iipc.github.io/warc-specifications/).
    """
    head = stream.read(8)
    if len(head) < 8:
        return None, 0
    magic, size = struct.unpack("<II", head)
    if magic != _ZSTD_DICTIONARY_FRAME or size > _MAX_DICTIONARY_BYTES:
        return None, 0
    content = stream.read(size)
    if content.startswith(_ZSTD_MAGIC):
        try:
            if zstandard.frame_content_size(content) > _MAX_DICTIONARY_BYTES:  # which would be allocated at once
                return None, len(head) + size
            content = zstandard.ZstdDecompressor().decompress(content, max_output_size=_MAX_DICTIONARY_BYTES)
        except zstandard.ZstdError:
            return None, len(head) + size  # the records will be found to be corrupt
    dictionary = zstandard.ZstdCompressionDict(content)
    try:
        ZstdFrame(dictionary)  # which is when a malformed one is found
    except zstandard.ZstdError:
        return None, len(head) + size
    return dictionary, len(head) + size


def _next_member(stream: BinaryIO, start: int, make_member: Callable[[], Decompressor], magic: bytes) -> int | None:
    """Where the next compressed member that begins with "WARC/" lies."""
    while (found := _find(stream, start, magic)) is not None:
        stream.seek(found)
        try:
            head = next(make_member().feed(stream.read(READ_BYTES)), b"")
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
