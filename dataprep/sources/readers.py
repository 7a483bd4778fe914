"""From a source to its records: opens the file and picks the reader of its format."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, cast

from cluster.contracts import storage
from cluster.contracts.records import Quarantined
from dataprep.sources.config import Columns
from dataprep.sources.jsonl import read_jsonl
from dataprep.sources.mediawiki import read_mediawiki
from dataprep.sources.parquet import read_parquet
from dataprep.sources.records import SourceRecord
from dataprep.sources.shards import Source
from dataprep.sources.warc import read_warc
from dataprep.sources.whole_file import read_code_file, read_html_file, read_text_file

_READ_AHEAD_BYTES = 4 << 20  # one request to a remote store
_FETCHED_AT_ONCE = 16  # files; each is at most a record of the allowed size


def read_sources(sources: Sequence[Source], *, columns: Columns, max_record_bytes: int) -> Iterator[SourceRecord]:
    """All records of a shard's sources, in order. Remote files of one record each are fetched several at a time.

    Raises `OSError` where the store fails, and for nothing else.
    """
    if len(sources) == 1 or storage.is_local(sources[0].uri):
        for source in sources:
            yield from read_records(source, columns=columns, max_record_bytes=max_record_bytes)
        return

    def fetch(source: Source) -> list[SourceRecord]:
        return list(read_records(source, columns=columns, max_record_bytes=max_record_bytes))

    with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
        for start in range(0, len(sources), _FETCHED_AT_ONCE):
            for records in pool.map(fetch, sources[start : start + _FETCHED_AT_ONCE]):
                yield from records


def read_records(source: Source, *, columns: Columns, max_record_bytes: int) -> Iterator[SourceRecord]:
    """All records of a source, in its order. Raises `OSError` where the store fails, and for nothing else."""
    uri, codec = source.uri, source.codec
    filesystem, path = storage.locate(uri)
    with filesystem.open_input_file(path) as file:
        if file.size() == 0:
            yield Quarantined(uri, -1, "empty_file")
            return
        stream = cast(BinaryIO, io.BufferedReader(file, _READ_AHEAD_BYTES))
        if source.format == "warc":
            yield from read_warc(stream, uri, codec=codec, max_record_bytes=max_record_bytes)
        elif source.format == "jsonl":
            yield from read_jsonl(
                stream,
                uri,
                codec=codec,
                columns=columns,
                max_record_bytes=max_record_bytes,
                start=source.start,
                end=source.end,
            )
        elif source.format == "parquet":
            yield from read_parquet(
                file,
                uri,
                columns=columns,
                max_record_bytes=max_record_bytes,
                start=source.start,
                end=source.end,
            )
        elif source.format == "mediawiki":
            yield from read_mediawiki(stream, uri, codec=codec, max_record_bytes=max_record_bytes)
        elif source.format == "html":
            yield read_html_file(stream, uri, codec=codec, max_record_bytes=max_record_bytes)
        elif source.format == "code":
            yield read_code_file(stream, uri, max_record_bytes=max_record_bytes)
        else:
            yield read_text_file(stream, uri, codec=codec, max_record_bytes=max_record_bytes)
