"""Parquet files: a document is a row. Only the columns that are mapped are read, one row group after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.contracts.records import Quarantined
from dataprep.sources.config import Columns
from dataprep.sources.parquet_footer import footer_problem, row_group_begins
from dataprep.sources.records import PlainText, Provenance, SourceRecord

_BATCH_ROWS = 512
_BATCH_BYTES = 32 << 20  # about; rows of long texts come in smaller batches
_UNKNOWN_BYTES = 1 << 20  # assumed of a value where nothing tells: it may be all of the one before and a byte more
_BUFFER_BYTES = 4 << 20  # of one column; a request to a remote store
_PROBE_BYTES = 16 << 20


def read_parquet(
    file: pa.NativeFile,
    uri: str,
    *,
    columns: Columns,
    max_record_bytes: int,
    start: int = 0,
    end: int | None = None,
) -> Iterator[SourceRecord]:
    """The documents of the row groups that begin in bytes [start, end); their offset is the row's number in the file.

    A file is quarantined as a whole (offset -1) as "bad_parquet", or, where its schema is another, as "missing_column"
    or "text_not_a_string". A row is quarantined as "missing_text" (null), "bad_utf8" or "record_too_large". A row group
    that can't be decoded is quarantined from its first unread row on, as "bad_row_group". Raises `OSError` where the
    store fails.
    """
    deadly = footer_problem(file)
    if deadly is not None:
        if start == 0:
            yield Quarantined(uri, -1, "bad_parquet", deadly)
        return
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        metadata, schema = parquet.metadata, parquet.schema_arrow
        _ = [schema.field(name) for name in _mapped(schema, columns).values()]
        problem = _schema_problem(schema, columns)
        begins = row_group_begins(metadata) if problem is None else []
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:  # names that are no text, or not unique
        _raise_if_unreadable(file, file.size() - 1, 1)
        if start == 0:
            yield Quarantined(uri, -1, "bad_parquet", str(error))
        return
    if problem is not None:
        if start == 0:
            yield Quarantined(uri, -1, *problem)
        return
    first_row = 0
    for number, begin in enumerate(begins):
        if start <= begin and (end is None or begin < end):
            yield from _row_group(parquet, file, number, begin, first_row, uri, columns, max_record_bytes)
        first_row += metadata.row_group(number).num_rows


def _schema_problem(schema: pa.Schema, columns: Columns) -> tuple[str, str] | None:
    """(reason, detail) of the quarantine of a file whose schema has no column of text; None where it has one."""
    if columns.text not in schema.names:
        return "missing_column", f"no column {columns.text!r}; the file has {', '.join(schema.names)}"
    kind = schema.field(columns.text).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not _is_string(kind):
        return "text_not_a_string", f"column {columns.text!r} is of type {kind}"
    return None


def _is_string(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_binary(kind: pa.DataType) -> bool:
    return _is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _mapped(schema: pa.Schema, columns: Columns) -> dict[str, str]:
    """What a column holds ("text", "url", ...) -> its name, for those of the mapped columns that the file has."""
    mapped = {"text": columns.text, "url": columns.url, "date": columns.date, "title": columns.title}
    return {role: name for role, name in mapped.items() if name is not None and name in schema.names}


def _row_group(
    parquet: pq.ParquetFile,
    file: pa.NativeFile,
    number: int,
    begin: int,
    first_row: int,
    uri: str,
    columns: Columns,
    max_record_bytes: int,
) -> Iterator[SourceRecord]:
    schema = parquet.schema_arrow
    names = {role: n for role, n in _mapped(schema, columns).items() if not pa.types.is_nested(schema.field(n).type)}
    names.pop("text")
    row = first_row
    try:
        read = [columns.text, *names.values()]
        rows = _batch_rows(parquet.metadata.row_group(number), _longest_in_dictionaries(file, parquet, number, read))
        for batch in parquet.iter_batches(rows, row_groups=[number], columns=read, use_threads=False):
            texts = _decoded(batch.column(columns.text)).cast(pa.large_binary())
            sizes = pc.binary_length(texts)
            is_too_large = pc.greater(sizes, max_record_bytes)
            if pc.any(is_too_large).as_py():  # not copied
                texts = pc.if_else(is_too_large, pa.scalar(None, pa.large_binary()), texts)
            fields = {role: _strings(batch.column(name)) for role, name in names.items()}
            for i, (text, size) in enumerate(zip(texts.to_pylist(), sizes.to_pylist(), strict=True)):
                place = Provenance(uri, row, **{role: values[i] for role, values in fields.items()})
                yield _document(place, text, size, columns, max_record_bytes)
                row += 1
    except (pa.ArrowException, OSError) as error:
        group = parquet.metadata.row_group(number)
        _raise_if_unreadable(file, begin, group.total_byte_size)
        left = first_row + group.num_rows - row
        yield Quarantined(uri, row, "bad_row_group", f"{left} rows of row group {number}: {error}")


def _batch_rows(group: pq.RowGroupMetaData, longest_bytes: int) -> int:
    """How many rows of a group to read at once, where dictionaries may give each up to `longest_bytes` more."""
    bytes_per_row = max(1, group.total_byte_size // max(1, group.num_rows)) + longest_bytes
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // bytes_per_row))


def _longest_in_dictionaries(file: pa.NativeFile, parquet: pq.ParquetFile, number: int, read: Sequence[str]) -> int:
    """The bytes of the longest value in the dictionary of each of a row group's columns, summed over the columns.

    A value that stands once in a dictionary may be in every row. The footer doesn't tell how long it is, so a single
    row is read together with the dictionaries, which as a rule have a megabyte at most.
    """
    kinds = {name: parquet.schema_arrow.field(name).type for name in read}
    names = [n for n, kind in kinds.items() if _is_binary(kind.value_type if pa.types.is_dictionary(kind) else kind)]
    reader = pq.ParquetFile(
        file, metadata=parquet.metadata, pre_buffer=False, buffer_size=_BUFFER_BYTES, read_dictionary=names
    )
    longest = 0
    for name in names:
        try:
            first = next(reader.iter_batches(1, row_groups=[number], columns=[name], use_threads=False), None)
        except (pa.ArrowException, OSError):  # of no dictionary, or of one that the reading itself will stumble over
            longest += _UNKNOWN_BYTES
            continue
        if first is not None:
            longest += pc.max(pc.binary_length(first.column(0).dictionary.cast(pa.large_binary()))).as_py() or 0
    return longest


def _document(
    place: Provenance, text: bytes | None, size: int | None, columns: Columns, max_record_bytes: int
) -> PlainText | Quarantined:
    if size is not None and size > max_record_bytes:
        detail = f"{size} bytes; {max_record_bytes} allowed"
        return Quarantined(place.uri, place.offset, "record_too_large", detail, place.url)
    if text is None:
        return Quarantined(place.uri, place.offset, "missing_text", f"{columns.text!r} is null", place.url)
    try:
        return PlainText(place, text.decode())
    except UnicodeDecodeError as error:
        return Quarantined(place.uri, place.offset, "bad_utf8", str(error), place.url)


def _strings(column: pa.Array) -> list[str | None]:
    """The values of a column as text, timestamps as ISO 8601; None for each that is no UTF-8."""
    column = _decoded(column)
    try:
        if pa.types.is_timestamp(column.type):
            zone = "" if column.type.tz is None else "Z"
            seconds = column.cast(pa.timestamp("s", "UTC" if zone else None), safe=False)
            column = pc.strftime(seconds, format=f"%Y-%m-%dT%H:%M:%S{zone}")
        return column.cast(pa.large_string()).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):
        pass
    try:
        return [_text(value) for value in column.cast(pa.large_binary()).to_pylist()]
    except pa.ArrowException:
        return [None] * len(column)


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _raise_if_unreadable(file: pa.NativeFile, offset: int, size: int) -> None:
    """Read some bytes as they are: Arrow reports a store that fails and bytes that make no sense by the same errors.

    Raises `OSError` where the store fails.
    """
    file.seek(max(offset, 0))
    while size > 0 and (chunk := file.read(min(size, _PROBE_BYTES))):
        size -= len(chunk)
