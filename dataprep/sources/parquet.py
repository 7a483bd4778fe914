"""Parquet files: a row is a document. Only the mapped columns are read, one row group after another."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.contracts.records import Quarantined
from dataprep.config import Columns
from dataprep.sources.records import PlainText, Provenance, SourceRecord

_BATCH_ROWS = 512
_BATCH_BYTES = 32 << 20  # about; rows of long texts come in smaller batches
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
    """The documents of the row groups that begin in [start, end) bytes; their offset is the row's number in the file.

    Quarantined as a whole (offset -1): "bad_parquet", and a file of another schema as "missing_column" or
    "text_not_a_string". By row: "missing_text" (null), "bad_utf8", "record_too_large". The rest of a row group that
    can't be decoded: "bad_row_group", at its first unread row. Raises `OSError` where the store fails.
    """
    try:
        parquet = pq.ParquetFile(
            file,
            pre_buffer=False,
            buffer_size=_BUFFER_BYTES,
        )
        metadata, schema = parquet.metadata, parquet.schema_arrow
    except (pa.ArrowException, OSError) as error:
        _raise_if_unreadable(file, file.size() - 1, 1)
        if start == 0:
            yield Quarantined(uri, -1, "bad_parquet", str(error))
        return
    problem = _schema_problem(schema, columns)
    if problem is not None:
        if start == 0:
            yield Quarantined(uri, -1, *problem)
        return
    first_row = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if start <= _begin(group) and (end is None or _begin(group) < end):
            yield from _row_group(parquet, file, number, first_row, uri, columns, max_record_bytes)
        first_row += group.num_rows


def _schema_problem(schema: pa.Schema, columns: Columns) -> tuple[str, str] | None:
    """(reason, detail) where the text is not to be had from such a file."""
    if columns.text not in schema.names:
        return "missing_column", f"no column {columns.text!r}; the file has {', '.join(schema.names)}"
    kind = schema.field(columns.text).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        return "text_not_a_string", f"column {columns.text!r} is of type {kind}"
    return None


def _begin(group: pq.RowGroupMetaData) -> int:
    column = group.column(0)
    pages = [column.data_page_offset, *([column.dictionary_page_offset] if column.has_dictionary_page else [])]
    return int(min(pages))


def _row_group(
    parquet: pq.ParquetFile,
    file: pa.NativeFile,
    number: int,
    first_row: int,
    uri: str,
    columns: Columns,
    max_record_bytes: int,
) -> Iterator[SourceRecord]:
    mapped = {"url": columns.url, "date": columns.date, "title": columns.title}
    names = {role: name for role, name in mapped.items() if name is not None and name in parquet.schema_arrow.names}
    row = first_row
    try:
        batches = parquet.iter_batches(
            _batch_rows(parquet.metadata.row_group(number)),
            row_groups=[number],
            columns=[columns.text, *names.values()],
            use_threads=False,
        )
        for batch in batches:
            texts = batch.column(columns.text).cast(pa.large_binary()).to_pylist()
            fields = {role: _strings(batch.column(name)) for role, name in names.items()}
            for i, text in enumerate(texts):
                place = Provenance(uri, row, **{role: values[i] for role, values in fields.items()})
                yield _document(place, text, columns, max_record_bytes)
                row += 1
    except (pa.ArrowException, OSError) as error:
        group = parquet.metadata.row_group(number)
        _raise_if_unreadable(file, _begin(group), group.total_byte_size)
        left = first_row + group.num_rows - row
        yield Quarantined(uri, row, "bad_row_group", f"{left} rows of row group {number}: {error}")


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    """How many rows of a group to hold at once."""
    bytes_per_row = max(1, group.total_byte_size // max(1, group.num_rows))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // bytes_per_row))


def _document(
    place: Provenance, text: bytes | None, columns: Columns, max_record_bytes: int
) -> PlainText | Quarantined:
    if text is None:
        return Quarantined(place.uri, place.offset, "missing_text", f"{columns.text!r} is null")
    if len(text) > max_record_bytes:
        detail = f"{len(text)} bytes; {max_record_bytes} allowed"
        return Quarantined(place.uri, place.offset, "record_too_large", detail)
    try:
        return PlainText(place, text.decode())
    except UnicodeDecodeError as error:
        return Quarantined(place.uri, place.offset, "bad_utf8", str(error))


def _strings(column: pa.Array) -> list[str | None]:
    """A column as text, timestamps as ISO 8601; null where it is nested or no UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        return [None] * len(column)
    try:
        if pa.types.is_timestamp(column.type):
            zone = "" if column.type.tz is None else "Z"
            seconds = column.cast(pa.timestamp("s", "UTC" if zone else None), safe=False)
            column = pc.strftime(seconds, format=f"%Y-%m-%dT%H:%M:%S{zone}")
        return column.cast(pa.large_string()).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):
        return [None] * len(column)


def _raise_if_unreadable(file: pa.NativeFile, offset: int, size: int) -> None:
    """Tell a store that fails from bytes that make no sense, which Arrow reports alike: the bytes are read as they are.

    Raises `OSError` where they can't be.
    """
    file.seek(max(offset, 0))
    while size > 0 and (chunk := file.read(min(size, _PROBE_BYTES))):
        size -= len(chunk)
