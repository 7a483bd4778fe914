"""Reads conversations and texts from JSON Lines files, and sets aside the rows that are none.

A row that can't be used is quarantined with its file, its offset and a short fixed reason, and the others are read all
the same. `parse_conversation` says what a conversation must look like.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.records import QUARANTINE_SCHEMA, Conversation, Message, Quarantined
from training.conversations.artifact import ReadConversation

Row = TypeVar("Row")

QUARANTINE_FILE = "quarantined.parquet"


class BadRow(ValueError):
    """A row that is not what it should be; the message is a short fixed word, counted in reports."""


def read_conversation_files(patterns: Sequence[str]) -> tuple[list[ReadConversation], list[Quarantined]]:
    """(conversations, quarantined): what is in the JSON Lines files that `patterns` name, and the rows that are none.

    Raises `InputError` where a pattern matches nothing or no row at all is a conversation.
    """
    found, quarantined = read_placed_rows(patterns, parse_conversation)
    conversations = [ReadConversation(conversation, uri, offset) for conversation, uri, offset in found]
    if not conversations:
        raise InputError(
            f"{', '.join(patterns)}: none of {len(quarantined)} rows is a conversation; "
            'each line must be {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}'
        )
    return conversations, quarantined


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


def parse_conversation(line: bytes) -> Conversation:
    """Parse a JSON line as a conversation: an optional system message, then user and assistant in turn.

    Raises `BadRow` with one of: bad_json, missing_messages, bad_message, bad_role, empty_content, wrong_order
    (the first speaker is not the user, or the last not the assistant, or one speaks twice).
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRow("bad_json") from error
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise BadRow("missing_messages")
    messages = parse_messages(row["messages"])
    turns = [message["role"] for message in messages if message["role"] != "system"]
    expected = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != expected or any(message["role"] == "system" for message in messages[1:]):
        raise BadRow("wrong_order")
    topic = row.get("topic")
    return Conversation(messages=messages, topic=topic) if isinstance(topic, str) else Conversation(messages=messages)


def parse_messages(values: Sequence[Any]) -> list[Message]:
    """Checked messages, in whatever order. Raises `BadRow`."""
    return [_parse_message(value) for value in values]


def quarantine_parquet(rows: Sequence[Quarantined]) -> bytes:
    """The quarantined rows as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=QUARANTINE_SCHEMA), sink)
    return bytes(sink.getvalue().to_pybytes())


def _parse_message(value: Any) -> Message:
    if not isinstance(value, dict):
        raise BadRow("bad_message")
    role, content = value.get("role"), value.get("content")
    if role not in ("system", "user", "assistant"):
        raise BadRow("bad_role")
    if not isinstance(content, str) or not content.strip():
        raise BadRow("empty_content")
    return Message(role=role, content=content)


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
