"""JSON Lines: a document is a line, an object with a field of text. Files are plain or compressed (.gz, .zst, .bz2)."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO

import orjson

from cluster.contracts.compression import DamagedStream, decompressed
from cluster.contracts.records import Quarantined
from dataprep.sources.config import Columns
from dataprep.sources.formats import Codec
from dataprep.sources.records import PlainText, Provenance, SourceRecord

_SHOWN_BYTES = 120  # of a bad line, in the quarantine's detail
_BLANK = b" \t\r\n"


def read_jsonl(
    stream: BinaryIO,
    uri: str,
    *,
    codec: Codec | None,
    columns: Columns,
    max_record_bytes: int,
    start: int = 0,
    end: int | None = None,
) -> Iterator[SourceRecord]:
    """The documents of a JSON Lines file, or of the lines that begin in bytes [start, end) of a plain, seekable one.

    Blank lines are skipped. A line is quarantined, with its byte offset in the decompressed content, as "bad_json"
    (also for invalid UTF-8 and lone surrogates), "not_an_object", "missing_text", "text_not_a_string" or
    "record_too_large". The rest of a file that can't be decompressed is quarantined with the reason of its
    `DamagedStream`.
    """
    offset = 0
    if start:
        stream.seek(start - 1)
    try:
        for begin, line, following in _lines(decompressed(stream, codec), max_record_bytes, start, end):
            if line is not None and begin == 0:
                line = line.removeprefix(BOM_UTF8)
            if line is None:
                yield Quarantined(uri, begin, "record_too_large", f"a line over {max_record_bytes} bytes")
            elif line.strip(_BLANK):
                yield _document(line, uri, begin, columns)
            offset = following
    except DamagedStream as damage:
        yield Quarantined(uri, offset, damage.reason, damage.detail)


def _document(line: bytes, uri: str, offset: int, columns: Columns) -> PlainText | Quarantined:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Quarantined(uri, offset, "bad_json", f"{error}; {_shown(line)}")
    if not isinstance(row, dict):
        return Quarantined(uri, offset, "not_an_object", _shown(line))
    if columns.text not in row:
        return Quarantined(
            uri, offset, "missing_text", f"no {columns.text!r} in {_shown(line)}", _string(row, columns.url)
        )
    text = row[columns.text]
    if not isinstance(text, str):
        return Quarantined(
            uri,
            offset,
            "text_not_a_string",
            f"{columns.text!r} is of type {type(text).__name__}, not a string",
            _string(row, columns.url),
        )
    url, date, title = (_string(row, field) for field in (columns.url, columns.date, columns.title))
    return PlainText(Provenance(uri, offset, url, date, title), text)


def _string(row: dict[str, object], field: str | None) -> str | None:
    value = row.get(field) if field is not None else None
    return value if isinstance(value, str) else None


def _shown(line: bytes) -> str:
    return line[:_SHOWN_BYTES].decode("utf-8", errors="replace").strip()


def _lines(
    chunks: Iterator[bytes], max_bytes: int, start: int, end: int | None
) -> Iterator[tuple[int, bytes | None, int]]:
    """(offset, line without its newline, offset of the next line) of each line that begins in bytes [start, end).

    `chunks` begin one byte before `start`, or with the file. A line over `max_bytes` is None, and its end is looked for
    in the range alone. A stream that is damaged loses the line that it breaks off in; the damage is quarantined
    instead.
    """
    offset = max(start - 1, 0)
    foreign = start > 0  # whether this is inside a line that begins before the range
    pending, skipped = bytearray(), 0
    for chunk in chunks:
        begin = 0
        while (newline := chunk.find(b"\n", begin)) >= 0:
            length = skipped + len(pending) + newline - begin + 1
            if foreign:
                foreign = False
            elif length - 1 > max_bytes:
                yield offset, None, offset + length
            else:
                yield offset, bytes(pending) + chunk[begin:newline], offset + length
            offset, skipped, begin = offset + length, 0, newline + 1
            pending.clear()
            if end is not None and offset >= end:
                return
        pending += memoryview(chunk)[begin:]
        if foreign or len(pending) > max_bytes:
            skipped += len(pending)
            pending.clear()
            if end is not None and offset + skipped >= end:
                break
    if foreign:
        return
    if skipped or len(pending) > max_bytes:
        yield offset, None, offset + skipped + len(pending)
    elif pending:
        yield offset, bytes(pending), offset + len(pending)
