"""JSON Lines: one document a line, plain or compressed (.gz, .zst, .bz2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import orjson

from cluster.contracts.records import Quarantined
from dataprep.config import JsonlFields
from dataprep.sources.compression import Codec, DamagedStream, decompressed
from dataprep.sources.records import PlainText, Provenance, SourceRecord

_SHOWN_BYTES = 120  # of a bad line, in the quarantine's detail
_BLANK = b" \t\r\n"


def read_jsonl(
    stream: BinaryIO, uri: str, *, codec: Codec | None, fields: JsonlFields, max_record_bytes: int
) -> Iterator[SourceRecord]:
    """The documents of a JSON Lines file; blank lines are no records.

    Quarantined, with the line's byte offset in the decompressed content: "bad_json" (invalid UTF-8 and lone surrogates
    too), "not_an_object", "missing_text", "text_not_a_string", "record_too_large", and for the rest of
    a file that can't be decompressed "truncated_gz", "corrupt_zst" and their like.
    """
    offset = 0
    try:
        for offset, line, length in _lines(decompressed(stream, codec), max_record_bytes):
            if line is None:
                yield Quarantined(
                    uri, offset, "record_too_large", f"a line of {length} bytes; {max_record_bytes} allowed"
                )
            elif line.strip(_BLANK):
                yield _document(line, uri, offset, fields)
            offset += length
    except DamagedStream as damage:
        yield Quarantined(uri, offset, damage.reason, damage.detail)


def _document(line: bytes, uri: str, offset: int, fields: JsonlFields) -> PlainText | Quarantined:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Quarantined(uri, offset, "bad_json", f"{error}; {_shown(line)}")
    if not isinstance(row, dict):
        return Quarantined(uri, offset, "not_an_object", _shown(line))
    if fields.text not in row:
        return Quarantined(uri, offset, "missing_text", f"no {fields.text!r} in {_shown(line)}")
    text = row[fields.text]
    if not isinstance(text, str):
        return Quarantined(uri, offset, "text_not_a_string", f"{fields.text!r} is a {type(text).__name__}")
    url, date, title = (_string(row, field) for field in (fields.url, fields.date, fields.title))
    return PlainText(Provenance(uri, offset, url, date, title), text)


def _string(row: dict[str, object], field: str | None) -> str | None:
    value = row.get(field) if field is not None else None
    return value if isinstance(value, str) else None


def _shown(line: bytes) -> str:
    return line[:_SHOWN_BYTES].decode("utf-8", errors="replace").strip()


def _lines(pieces: Iterator[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None, int]]:
    """(offset, line without its newline, bytes with it) of each line; no line where it is over `max_bytes`.

    A damaged stream loses the line it was cut off in: the damage is quarantined in its stead.
    """
    offset, pending, skipped = 0, bytearray(), 0
    for piece in pieces:
        start = 0
        while (newline := piece.find(b"\n", start)) >= 0:
            length = skipped + len(pending) + newline - start + 1
            if length - 1 > max_bytes:
                yield offset, None, length
            else:
                yield offset, bytes(pending) + piece[start:newline], length
            offset, skipped, start = offset + length, 0, newline + 1
            pending.clear()
        pending += memoryview(piece)[start:]
        if len(pending) > max_bytes:
            skipped += len(pending)
            pending.clear()
    if skipped or len(pending) > max_bytes:
        yield offset, None, skipped + len(pending)
    elif pending:
        yield offset, bytes(pending), len(pending)
