"""Reads rows out of files, in bounded memory: JSON Lines, JSON arrays, Parquet, Arrow, CSV and TSV.

What can't be read is a `Quarantined` in place of a row: of the line or row that it is, or of the rest of a file from
there on. Nothing of a file is lost without one, and none of this raises but for a store that fails.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.compression import Codec, DamagedStream, decompressed
from training.conversations.file_names import FileFormat

MAX_ROW_BYTES = 64 << 20  # of a line, or of an item of a JSON array
SHOWN_CHARACTERS = 200  # of a row that can't be used
_BATCH_ROWS = 256
_BLANK = b" \t\r\n"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class FileRange:
    """What one task reads: a file, or the rows of it that begin in bytes [start, end) or, of Parquet, in row groups."""

    uri: str
    format: FileFormat
    codec: Codec | None = None
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class FileRow:
    """A row, or why there is none, and where it stands.

    The offset is its first byte (JSON Lines, in the decompressed content) or its number in the file, from 0. The line
    is where a person finds it, from 1: the line of text files, counted from the range's first; or the row's number. In
    place of a row, `reason` is a short fixed word and `detail` what was seen; an offset of -1 is the whole file.
    """

    offset: int
    line: int
    row: Any = None
    reason: str = ""
    detail: str = ""


def read_rows(source: FileRange, *, count_lines: Callable[[int], None] = lambda count: None) -> Iterator[FileRow]:
    """The rows of a range, in their order, and what could not be read of it.

    `count_lines` is called at the end of JSON Lines with the number of lines that begin in the range, blank ones too.
    """
    if source.format == "parquet":
        yield from _parquet_rows(source)
    elif source.format == "arrow":
        yield from _arrow_rows(source)
    else:
        filesystem, path = storage.locate(source.uri)
        if source.start:  # only ranges of plain files begin later
            with filesystem.open_input_file(path) as file:
                file.seek(source.start - 1)
                yield from _json_lines(decompressed(file, None), source, count_lines)
            return
        with filesystem.open_input_stream(path, compression=None) as stream:
            yield from _text_rows(stream, source, count_lines)


def shown(value: Any) -> str:
    """The beginning of a row, for people."""
    if isinstance(value, bytes):
        return value[:SHOWN_CHARACTERS].decode("utf-8", "replace")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:SHOWN_CHARACTERS]


def _text_rows(stream: BinaryIO, source: FileRange, count_lines: Callable[[int], None]) -> Iterator[FileRow]:
    chunks = decompressed(stream, source.codec)
    if source.format in ("csv", "tsv"):
        yield from _separated_rows(chunks, "," if source.format == "csv" else "\t")
        return
    if source.format == "json":
        chunks, is_array = _begins_array(chunks)
        if is_array:
            yield from _array_rows(chunks)
            return
    yield from _json_lines(chunks, source, count_lines)


def _begins_array(chunks: Iterator[bytes]) -> tuple[Iterator[bytes], bool]:
    """(the same chunks, whether what is in them begins as a JSON array)."""
    seen: list[bytes] = []
    damage: list[DamagedStream] = []
    try:
        for chunk in chunks:
            seen.append(chunk)
            if b"".join(seen).removeprefix(codecs.BOM_UTF8).strip(_BLANK):
                break
    except DamagedStream as error:
        damage.append(error)
    begin = b"".join(seen).removeprefix(codecs.BOM_UTF8).lstrip(_BLANK)

    def again() -> Iterator[bytes]:
        yield from seen
        if damage:
            raise damage[0]
        yield from chunks

    return again(), begin.startswith(b"[")


def _json_lines(chunks: Iterator[bytes], source: FileRange, count_lines: Callable[[int], None]) -> Iterator[FileRow]:
    """The lines that begin in the range. `chunks` begin one byte before `start`, or with the file."""
    offset, line = max(source.start - 1, 0), 0
    is_foreign = source.start > 0  # whether this is inside a line that begins before the range
    pending = bytearray()
    skipped = 0  # bytes of a line that is too long to be kept
    try:
        for chunk in chunks:
            begin = 0
            while (newline := chunk.find(b"\n", begin)) >= 0:
                length = skipped + len(pending) + newline - begin + 1
                if is_foreign:
                    is_foreign = False
                else:
                    line += 1
                    yield from _line_row(bytes(pending) + chunk[begin:newline], offset, line, skipped)
                offset, skipped, begin = offset + length, 0, newline + 1
                pending.clear()
                if source.end is not None and offset >= source.end:
                    count_lines(line)
                    return
            pending += memoryview(chunk)[begin:]
            if is_foreign or len(pending) > MAX_ROW_BYTES:
                skipped += len(pending)
                pending.clear()
        if (pending or skipped) and not is_foreign:
            line += 1
            yield from _line_row(bytes(pending), offset, line, skipped)
    except DamagedStream as damage:
        yield FileRow(offset, line + 1, reason=damage.reason, detail=f"the rest of the file: {damage.detail}")
    count_lines(line)


def _line_row(content: bytes, offset: int, line: int, skipped: int) -> Iterator[FileRow]:
    if skipped or len(content) > MAX_ROW_BYTES:
        yield FileRow(offset, line, reason="row_too_large", detail=f"a line over {MAX_ROW_BYTES} bytes")
        return
    if offset == 0:
        content = content.removeprefix(codecs.BOM_UTF8)
    if not content.strip(_BLANK):
        return
    try:
        yield FileRow(offset, line, orjson.loads(content))
    except orjson.JSONDecodeError as error:
        yield FileRow(offset, line, reason="bad_json", detail=f"{error}; {shown(content)}")


def _array_rows(chunks: Iterator[bytes]) -> Iterator[FileRow]:
    """The items of a JSON array, one after another; from an item on that is no JSON, all of the rest at once."""
    texts = _decoded(chunks)
    text, number, place = "", 0, 0
    is_open = at_end = False
    while True:
        while place < len(text) and (text[place] in " \t\r\n\ufeff," or (text[place] == "[" and not is_open)):
            is_open = is_open or text[place] == "["
            place += 1
        problem = "the array is not closed"
        if place < len(text):
            if text[place] == "]":
                return
            try:
                _, end = _DECODER.raw_decode(text, place)
            except (json.JSONDecodeError, RecursionError) as error:
                problem = str(error)
            else:
                if end < len(text) or at_end:
                    yield _item_row(text[place:end], number)
                    number, place = number + 1, end
                    continue
        if at_end or len(text) - place > MAX_ROW_BYTES:
            reason = "bad_json" if at_end else "row_too_large"
            yield FileRow(
                number,
                number + 1,
                reason=reason,
                detail=f"the rest of the file: {problem}; {shown(text[place : place + SHOWN_CHARACTERS])}",
            )
            return
        try:
            more = next(texts)
            for _ in range(len(text) // len(more) if more else 0):  # so that a large item is not parsed too often
                more += next(texts, "")
            text, place = text[place:] + more, 0
        except StopIteration:
            at_end = True
        except (DamagedStream, UnicodeDecodeError) as damage:
            reason = damage.reason if isinstance(damage, DamagedStream) else "bad_utf8"
            yield FileRow(number, number + 1, reason=reason, detail=f"the rest of the file: {damage}")
            return


def _item_row(text: str, number: int) -> FileRow:
    try:
        return FileRow(number, number + 1, orjson.loads(text))
    except orjson.JSONDecodeError as error:
        return FileRow(number, number + 1, reason="bad_json", detail=f"{error}; {shown(text)}")


def _decoded(chunks: Iterator[bytes]) -> Iterator[str]:
    """The chunks as text. Raises `UnicodeDecodeError`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for chunk in chunks:
        if text := decoder.decode(chunk):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def _separated_rows(chunks: Iterator[bytes], delimiter: str) -> Iterator[FileRow]:
    """The records below the first, which names the columns; an empty cell is null."""
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(_text_lines(chunks), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on with the next line
            yield FileRow(number, line, reason="bad_csv", detail=str(error))
            number += 1
            continue
        except (UnicodeDecodeError, DamagedStream) as error:
            reason = error.reason if isinstance(error, DamagedStream) else "bad_utf8"
            yield FileRow(number, line, reason=reason, detail=f"the rest of the file: {error}")
            return
        if not record:
            continue
        if header is None:
            header = [name.strip().removeprefix("\ufeff") for name in record]
            if len(set(header)) < len(header):
                yield FileRow(-1, line, reason="bad_header", detail=f"columns of one name: {shown(record)}")
                return
            continue
        if len(record) == len(header):
            yield FileRow(number, line, {n: cell if cell else None for n, cell in zip(header, record, strict=True)})
        else:
            detail = f"{len(record)} cells for {len(header)} columns; {shown(record)}"
            yield FileRow(number, line, reason="wrong_number_of_cells", detail=detail)
        number += 1


def _text_lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines with their ends, as `csv` takes them. Raises `UnicodeDecodeError`, `DamagedStream` and `csv.Error`."""
    pending = ""
    for text in _decoded(chunks):
        lines = io.StringIO(pending + text, newline="").readlines()
        pending = lines.pop() if lines else ""
        yield from lines
        if len(pending) > MAX_ROW_BYTES:
            raise csv.Error(f"the rest of the file: a line over {MAX_ROW_BYTES} bytes")
    if pending:
        yield pending


def _parquet_rows(source: FileRange) -> Iterator[FileRow]:
    """The rows of the row groups that begin in bytes [start, end), as `row_group_begins` counts them."""
    filesystem, path = storage.locate(source.uri)
    with filesystem.open_input_file(path) as file:
        try:
            parquet = pq.ParquetFile(file)
            begins = row_group_begins(parquet.metadata)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            _raise_if_unreadable(file)
            if source.start == 0:
                yield FileRow(-1, 1, reason="bad_parquet", detail=str(error))
            return
        first = 0
        for group, begin in enumerate(begins):
            num_rows = parquet.metadata.row_group(group).num_rows
            if source.start <= begin and (source.end is None or begin < source.end):
                batches = parquet.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False)
                yield from _batch_rows(file, batches, first, first + num_rows, "bad_row_group")
            first += num_rows


def row_group_begins(metadata: pq.FileMetaData) -> list[int]:
    """Where each row group counts as beginning, in bytes: behind all that the groups before it hold, from 0."""
    begins, total = [], 0
    for group in range(metadata.num_row_groups):
        begins.append(total)
        total += max(1, metadata.row_group(group).total_byte_size)
    return begins


def _arrow_rows(source: FileRange) -> Iterator[FileRow]:
    """The rows of an Arrow file, in the stream's form (as `datasets` has it) or the file's."""
    filesystem, path = storage.locate(source.uri)
    with filesystem.open_input_file(path) as file:
        try:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        except (pa.ArrowException, OSError) as error:
            _raise_if_unreadable(file)
            yield FileRow(-1, 1, reason="bad_arrow", detail=str(error))
            return
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if is_file else iter(reader)
        yield from _batch_rows(file, batches, 0, None, "bad_arrow")


def _batch_rows(
    file: pa.NativeFile, batches: Iterator[pa.RecordBatch], first: int, end: int | None, reason: str
) -> Iterator[FileRow]:
    """The rows of Arrow batches, numbered from `first`; where one can't be decoded, the rest up to `end` at once."""
    number = first
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for values in _values(batch.slice(start, _BATCH_ROWS)):
                    if values is None:
                        yield FileRow(number, number + 1, reason="bad_utf8")
                    else:
                        yield FileRow(number, number + 1, {key: _without_nulls(v) for key, v in values.items()})
                    number += 1
    except (pa.ArrowException, OSError) as error:
        _raise_if_unreadable(file)
        rest = "the rest of the file" if end is None else f"{end - number} rows"
        yield FileRow(number, number + 1, reason=reason, detail=f"{rest}: {error}")


def _raise_if_unreadable(file: pa.NativeFile) -> None:
    """Raise `OSError` where it is the store that fails, and not the file that is none."""
    file.seek(0)
    file.read(1)


def _values(batch: pa.RecordBatch) -> Iterator[Mapping[str, Any] | None]:
    """The rows as Python has them; None for one that holds text which is none."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                yield batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


def _without_nulls(value: Any) -> Any:
    """A value without what Arrow fills in: rows of one column share a schema, so each has every other's keys, as null.

    A null that a tool's schema or a call's arguments had themselves goes with them; in a Parquet file the two can't be
    told apart.
    """
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
