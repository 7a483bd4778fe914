"""Reads small JSON Lines files whole, and sets aside the rows that can't be used. Conversations have `files.py`.

A row that can't be used is quarantined with its file, its offset and a short fixed reason, and the others are read all
the same.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.records import QUARANTINE_SCHEMA, Quarantined
from training.conversations.messages import BadRow

Row = TypeVar("Row")

QUARANTINE_FILE = "quarantined.parquet"


def read_rows(patterns: Sequence[str], parse: Callable[[bytes], Row]) -> tuple[list[Row], list[Quarantined]]:
    """(rows, quarantined): what `parse` makes of every line of the files that `patterns` name, and what it refuses.

    Files are read in the order of their URIs, and as often as they are named, so that what is read is what the
    stage's fingerprint says.

    `parse` raises `BadRow` for a line that it refuses. A quarantined line's offset is that of its first byte in the
    decompressed file. A compressed file that can't be decompressed is quarantined whole, with offset -1.
    Raises `InputError` where a pattern matches nothing.
    """
    placed, quarantined = read_placed_rows(patterns, parse)
    return [row for row, _, _ in placed], quarantined


def read_placed_rows(
    patterns: Sequence[str], parse: Callable[[bytes], Row]
) -> tuple[list[tuple[Row, str, int]], list[Quarantined]]:
    """As `read_rows`, each row with its file's URI and its offset in it."""
    rows: list[tuple[Row, str, int]] = []
    quarantined: list[Quarantined] = []
    files = []
    for pattern in patterns:
        matched = storage.expand(pattern)
        if not matched:
            raise InputError(f"no file matches {pattern!r}; give a path, a directory or a glob of JSON Lines files")
        files += matched
    for file in sorted(files, key=lambda file: file.uri):
        try:
            lines = list(_lines(file.uri))
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            quarantined.append(Quarantined(file.uri, -1, "unreadable_file", str(error)))
            continue
        for offset, line in lines:
            try:
                rows.append((parse(line), file.uri, offset))
            except BadRow as error:
                detail = line[:200].decode("utf-8", "replace")
                quarantined.append(Quarantined(file.uri, offset, str(error), detail))
    return rows, quarantined


def parse_text(line: bytes) -> str:
    """The `text` of a JSON line. Raises `BadRow` with one of: bad_json, missing_text."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRow("bad_json") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise BadRow("missing_text")
    return str(row["text"])


def quarantine_parquet(rows: Sequence[Quarantined]) -> bytes:
    """The quarantined rows as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=QUARANTINE_SCHEMA), sink)
    return bytes(sink.getvalue().to_pybytes())


def _decompressed_zst(content: bytes) -> bytes:
    """All frames of a .zst file. Raises `zstandard.ZstdError` for one that is cut off; the stream reader would not."""
    pieces = []
    while content:
        frame = zstandard.ZstdDecompressor().decompressobj()
        pieces.append(frame.decompress(content))
        if not frame.eof:
            raise zstandard.ZstdError("the file is truncated")
        content = frame.unused_data
    return b"".join(pieces)


def _lines(uri: str) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines of a file that are not blank."""
    content = storage.read_bytes(uri)
    if uri.endswith(".zst"):
        content = _decompressed_zst(content)
    elif uri.endswith(".gz"):
        content = gzip.decompress(content)
    offset = 0
    for line in content.splitlines(keepends=True):
        if line.strip():
            yield offset, line.rstrip(b"\r\n")
        offset += len(line)
