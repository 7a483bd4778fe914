"""Reads feedback from files, and sets aside the rows that are none, with file, line and a reason.

The files are read by `training/conversations/files.py`, as those of conversations are; `formats.py` says what a row may
look like.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.records import QUARANTINE_SCHEMA
from training.conversations.file_names import DESCRIPTIONS, FileFormat, file_format
from training.conversations.files import FileRange, read_rows, shown
from training.conversations.messages import BadRow
from training.feedback.config import FeedbackSource
from training.feedback.formats import FeedbackParser
from training.feedback.rows import FeedbackRow

Row = TypeVar("Row")

QUARANTINE_FILE = "quarantined.parquet"
_QUARANTINED_SCHEMA = QUARANTINE_SCHEMA.append(pa.field("line", pa.int64()))


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that is no feedback, and where a person finds it."""

    uri: str
    offset: int
    line: int
    reason: str
    detail: str


def read_feedback(patterns: Sequence[str], settings: FeedbackSource) -> tuple[list[FeedbackRow], list[QuarantinedRow]]:
    """(feedback, quarantined) of the files that `patterns` name, in the order of their URIs and rows.

    A file that several patterns name is read once. Raises `InputError` where a pattern matches nothing, a name tells no
    format, or no row at all is feedback.
    """
    found, quarantined = _read(patterns, lambda uri: FeedbackParser(settings, name=_stem(uri)), settings.file_format)
    if not found:
        raise InputError(
            f"{', '.join(patterns)}: none of {len(quarantined)} rows is feedback ({_first_reasons(quarantined)}); "
            'a row is like {"prompt": ..., "chosen": ..., "rejected": ...}, or `columns` must say what holds what'
        )
    for row, uri, offset in found:
        row["uri"], row["offset"] = uri, offset
    return [row for row, _, _ in found], quarantined


def read_texts(patterns: Sequence[str]) -> tuple[list[str], list[QuarantinedRow]]:
    """(the `text` of every row, quarantined) of the files that `patterns` name. Raises `InputError`, as above."""
    found, quarantined = _read(patterns, lambda uri: _text, None)
    return [text for text, _, _ in found], quarantined


def _read(
    patterns: Sequence[str], parser_of: Callable[[str], Callable[[Any], Row]], forced: FileFormat | None
) -> tuple[list[tuple[Row, str, int]], list[QuarantinedRow]]:
    """(rows with their file and offset, quarantined); `parser_of` makes the parser of a file's rows."""
    rows: list[tuple[Row, str, int]] = []
    quarantined: list[QuarantinedRow] = []
    for uri in _files(patterns):
        parse = parser_of(uri)
        kind, codec = file_format(uri, forced)
        for found in read_rows(FileRange(uri, kind, codec)):
            reason, detail = found.reason, found.detail
            if not reason:
                try:
                    rows.append((parse(found.row), uri, found.offset))
                    continue
                except BadRow as error:
                    reason, detail = str(error), shown(found.row)
            quarantined.append(QuarantinedRow(uri, found.offset, found.line, reason, detail))
    return rows, quarantined


def _text(row: Any) -> str:
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        raise BadRow("missing_text")
    return str(row["text"])


def quarantined_parquet(rows: Sequence[QuarantinedRow]) -> bytes:
    """The quarantined rows as a Parquet file."""
    columns: list[dict[str, Any]] = [{**vars(row), "url": None} for row in rows]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(columns, schema=_QUARANTINED_SCHEMA), sink)
    return bytes(sink.getvalue().to_pybytes())


def _files(patterns: Sequence[str]) -> list[str]:
    found = set()
    for pattern in patterns:
        matched = {file.uri for file in storage.expand(pattern)}
        if not matched:
            raise InputError(f"no file matches {pattern!r}; give a path, a directory or a glob")
        found |= {uri for uri in matched if posixpath.basename(uri) not in DESCRIPTIONS}
    return sorted(found)


def _stem(uri: str) -> str:
    return posixpath.basename(uri).split(".")[0]


def _first_reasons(rows: Sequence[QuarantinedRow]) -> str:
    return ", ".join(f"line {row.line}: {row.reason}" for row in rows[:3]) or "there are none"
