"""Which files a stage reads, each once, and in which ranges, so that several tasks share a large one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.hashing import order_key
from cluster.contracts.storage import FileStat
from training.conversations.file_names import DESCRIPTIONS, FileFormat, file_format
from training.conversations.files import FileRange, row_group_begins

RANGE_BYTES = 64 << 20


@dataclass(frozen=True)
class Shard:
    """What one task reads: a range of a file that is of a set."""

    set_name: str
    source: FileRange
    num_bytes: int

    @property
    def key(self) -> str:
        """The name of its part: readable, and different for each set, file and range."""
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", self.source.uri.rsplit("/", 1)[-1])[:60].strip("-_") or "part"
        place = (self.set_name, self.source.uri, str(self.source.start))
        return f"{readable}-{order_key(0, *place).hex()[:16]}"

    def to_row(self) -> dict[str, Any]:
        """Its description in plain values, which a task gets."""
        end = "" if self.source.end is None else f" (bytes {self.source.start} to {self.source.end})"
        return {"uri": self.source.uri + end, "key": self.key, "set": self.set_name, "source": asdict(self.source)}


def plan_shards(
    set_name: str, patterns: Sequence[str], forced: FileFormat | None, *, range_bytes: int = RANGE_BYTES
) -> list[Shard]:
    """The shards of a set, in the order of the files' URIs and of the ranges in each.

    Raises `InputError` where a pattern matches nothing, and for a file of no known format.
    """
    return [
        Shard(set_name, source, (source.end or file.size) - source.start)
        for file in input_files(patterns)
        for source in _ranges(file, forced, range_bytes)
    ]


def input_files(patterns: Sequence[str]) -> list[FileStat]:
    """The files of all patterns, sorted by URI; each once, however it is spelt and by however many links it is reached.

    Raises `InputError` where a pattern matches nothing.
    """
    found: dict[str, FileStat] = {}
    for pattern in patterns:
        matched = storage.expand(pattern)
        if not matched:
            raise InputError(f"no file matches {pattern!r}; give a path, a directory or a glob of files")
        for file in matched:
            if file.uri.rsplit("/", 1)[-1] not in DESCRIPTIONS:
                found.setdefault(_one_spelling(file.uri), file)
    return sorted(found.values(), key=lambda file: file.uri)


def _one_spelling(uri: str) -> str:
    if storage.is_local(uri):
        return os.path.realpath(storage.local_path(uri))
    scheme, _, path = uri.partition("://")
    return f"{scheme}://{re.sub('/+', '/', path)}"


def _ranges(file: FileStat, forced: FileFormat | None, range_bytes: int) -> Iterator[FileRange]:
    kind, codec = file_format(file.uri, forced)
    if file.size <= range_bytes or codec is not None or kind not in ("jsonl", "parquet"):
        yield FileRange(file.uri, kind, codec)
        return
    is_text = kind == "jsonl"
    starts = list(range(0, file.size, range_bytes)) if is_text else _group_starts(file.uri, range_bytes)
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        yield FileRange(file.uri, kind, None, start, end)


def _group_starts(uri: str, range_bytes: int) -> list[int]:
    """Where ranges of a Parquet file begin, each of about `range_bytes` of decoded rows."""
    try:
        with storage.open_table(uri) as parquet:
            begins = row_group_begins(parquet.metadata)
    except (pa.ArrowException, OSError):
        return [0]  # reading it will say what is wrong
    starts = [0]
    for begin in begins:
        if begin - starts[-1] >= range_bytes:
            starts.append(begin)
    return starts


def first_lines(shards: Sequence[Shard], num_lines: Mapping[str, int]) -> dict[str, int]:
    """Key of a shard -> how many lines of its file come before it, from how many each shard has."""
    before: dict[str, int] = {}
    counted: dict[tuple[str, str], int] = {}
    for shard in shards:
        file = (shard.set_name, shard.source.uri)
        before[shard.key] = counted.get(file, 0) if shard.source.format == "jsonl" else 0
        counted[file] = counted.get(file, 0) + num_lines[shard.key]
    return before
