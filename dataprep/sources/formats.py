"""Which reader takes which file, by its name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Literal, cast

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.records import Quarantined
from dataprep.config import JsonlFields
from dataprep.sources.compression import Codec
from dataprep.sources.jsonl import read_jsonl
from dataprep.sources.records import SourceRecord
from dataprep.sources.warc import read_warc

_READ_AHEAD_BYTES = 4 << 20  # one request to a remote store
_CODECS: dict[str, Codec] = {".gz": "gz", ".zst": "zst", ".bz2": "bz2"}
_SUPPORTED: dict[tuple[str, Codec | None], Literal["warc", "jsonl"]] = {
    (".warc", None): "warc",
    (".warc", "gz"): "warc",
    **{(suffix, codec): "jsonl" for suffix in (".jsonl", ".ndjson") for codec in (None, "gz", "zst", "bz2")},
}


def format_of(uri: str) -> tuple[Literal["warc", "jsonl"], Codec | None]:
    """The format and compression of a file. Raises `InputError` for a name that tells neither."""
    name = uri.rsplit("/", 1)[-1].lower()
    codec = next((codec for suffix, codec in _CODECS.items() if name.endswith(suffix)), None)
    stem = name.rsplit(".", 1)[0] if codec else name
    for (suffix, compression), kind in _SUPPORTED.items():
        if compression == codec and stem.endswith(suffix):
            return kind, codec
    allowed = ", ".join(sorted(suffix + (f".{codec}" if codec else "") for suffix, codec in _SUPPORTED))
    raise InputError(f"{uri}: unknown format; a file's name must end in one of {allowed}")


def read_records(uri: str, *, fields: JsonlFields, max_record_bytes: int) -> Iterator[SourceRecord]:
    """All records of a file, in its order. Raises `InputError` for an unknown format, `OSError` from the store."""
    kind, codec = format_of(uri)
    filesystem, path = storage.locate(uri)
    with filesystem.open_input_file(path) as file:
        if file.size() == 0:
            yield Quarantined(uri, -1, "empty_file")
            return
        stream = cast(BinaryIO, io.BufferedReader(file, _READ_AHEAD_BYTES))
        if kind == "warc":
            gzip_only: Literal["gz"] | None = "gz" if codec == "gz" else None
            yield from read_warc(stream, uri, codec=gzip_only, max_record_bytes=max_record_bytes)
        else:
            yield from read_jsonl(stream, uri, codec=codec, fields=fields, max_record_bytes=max_record_bytes)
