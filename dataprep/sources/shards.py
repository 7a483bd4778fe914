"""How input files become shards: what one task of the clean stage reads, and what is cached as one part.

- A file of many records that can't be entered in the middle (WARC, compressed JSON Lines) is one shard.
- Plain JSON Lines and Parquet can be entered anywhere, so a large file becomes ranges of `RANGE_BYTES`. A record
belongs
  to the range in which its first byte lies (in Parquet, that of its row group), so the ranges in their order hold the
  records in their order.
- Files that are one document each are packed together. Where a pack ends follows from a hash of the names in it, so one
  more file changes one pack and not all those behind it.

The sizes are constants, not settings: a document's id is made of its shard and row, and must not depend on tuning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.source_names import common_directory
from cluster.contracts.storage import FileStat
from dataprep.sources.formats import Codec, Format, format_of

RANGE_BYTES = 256 << 20
_PACK_FILES = 1024  # on average
_MAX_PACK_BYTES = 256 << 20
_MAX_PACK_FILES = 8 * _PACK_FILES
_ONE_RECORD_FORMATS: frozenset[Format] = frozenset({"html", "text", "code"})
_RANGE_FORMATS: frozenset[Format] = frozenset({"jsonl", "parquet"})
_NAME_CHARACTERS = 80  # of a part's key, for people; the hash behind it is what tells parts apart


@dataclass(frozen=True, slots=True)
class Source:
    """What a reader takes: a file, or a range of one."""

    uri: str
    format: Format
    codec: Codec | None = None
    start: int = 0  # bytes
    end: int | None = None  # bytes, exclusive; None: to the end of the file


@dataclass(frozen=True, slots=True)
class SourceShard:
    """What one task reads and one part holds."""

    key: str  # of the part's commit; it differs for another file, another range and another version of a file
    sources: tuple[Source, ...]  # of one format
    num_bytes: int
    source: str  # what its tokens are counted under: the file's URI; of a pack, the URI of the input's directory

    @property
    def uri(self) -> str:
        """The URI of the input file; of a pack, that of the first."""
        return self.sources[0].uri

    @property
    def label(self) -> str:
        """What messages call it."""
        first = self.sources[0]
        if len(self.sources) > 1:
            return f"{first.uri} and {len(self.sources) - 1} files more"
        return first.uri if first.end is None else f"{first.uri} (bytes {first.start} to {first.end})"

    def to_row(self) -> dict[str, Any]:
        """Its description in plain values, which a task gets."""
        return {"uri": self.label, "key": self.key, "sources": [asdict(source) for source in self.sources]}


def sources_of(row: dict[str, Any]) -> list[Source]:
    """The sources in a shard's description, as `SourceShard.to_row` gives it."""
    return [Source(**source) for source in row["sources"]]


def whole_file(uri: str, forced: Format | None = None) -> Source:
    """A file from beginning to end, of the format `forced` or that of its name. Raises `InputError` for no format."""
    return Source(uri, *format_of(uri, forced))


def plan_shards(
    files: Sequence[FileStat],
    forced: Format | None = None,
    *,
    directories: Mapping[str, str] | None = None,
    range_bytes: int = RANGE_BYTES,
) -> list[SourceShard]:
    """The shards of some files, in the order of the files' URIs. Raises `InputError` for an unknown format.

    `directories` maps the URI of each file to that of the directory that its input covers, since files of different
    inputs are never packed together; None: all are of one input.
    """
    if directories is None:
        directories = dict.fromkeys(
            (file.uri for file in files), common_directory([file.uri for file in files] or ["/"])
        )
    shards: list[SourceShard] = []
    packable: dict[tuple[Format, str], list[FileStat]] = {}
    for file in sorted(files, key=lambda file: file.uri):
        source = whole_file(file.uri, forced)
        if source.format in _ONE_RECORD_FORMATS:
            packable.setdefault((source.format, directories[file.uri]), []).append(file)
        elif source.codec is None and source.format in _RANGE_FORMATS and file.size > range_bytes:
            shards += _ranges(file, source.format, range_bytes)
        else:
            shards.append(SourceShard(part_key(file), (source,), file.size, file.uri))
    for (_, directory), packed in packable.items():
        shards += (_pack(pack, forced, directory) for pack in _packs(packed))
    return sorted(shards, key=lambda shard: (shard.uri, shard.sources[0].start))


def part_key(file: FileStat) -> str:
    """The key of a whole file's part: readable, and different for another file or another version of it."""
    return f"{_readable(file.uri)}-{_identity([file])}"


def _ranges(file: FileStat, kind: Format, range_bytes: int) -> Iterator[SourceShard]:
    for start in range(0, file.size, range_bytes):
        end = min(start + range_bytes, file.size)
        source = Source(file.uri, kind, None, start, end)
        yield SourceShard(f"{part_key(file)}.{start}-{end}", (source,), end - start, file.uri)


def _packs(files: Iterable[FileStat]) -> Iterator[list[FileStat]]:
    pack: list[FileStat] = []
    num_bytes = 0
    for file in files:
        pack.append(file)
        num_bytes += file.size
        ends_here = int.from_bytes(hashlib.sha256(file.uri.encode()).digest()[:4]) % _PACK_FILES == 0
        if ends_here or num_bytes >= _MAX_PACK_BYTES or len(pack) >= _MAX_PACK_FILES:
            yield pack
            pack, num_bytes = [], 0
    if pack:
        yield pack


def _pack(files: Sequence[FileStat], forced: Format | None, directory: str) -> SourceShard:
    key = f"{_readable(files[0].uri)}-{len(files)}-{_identity(files)}"
    sources = tuple(whole_file(file.uri, forced) for file in files)
    return SourceShard(key, sources, sum(file.size for file in files), directory)


def _identity(files: Sequence[FileStat]) -> str:
    lines = "\n".join(f"{file.uri}\n{file.size}\n{file.mtime_ns}" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _readable(uri: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", uri.rsplit("/", 1)[-1])[:_NAME_CHARACTERS]
    return name.lstrip(".-_") or "part"


def input_files(patterns: Sequence[str]) -> list[FileStat]:
    """The files of all patterns, each once, sorted by URI. Raises `InputError` where a pattern matches nothing."""
    return each_once(matched_files(patterns))


def matched_files(patterns: Sequence[str]) -> list[list[FileStat]]:
    """The files of each pattern. Raises `InputError` where one matches nothing."""
    matched = [storage.expand(pattern) for pattern in patterns]
    for pattern, files in zip(patterns, matched, strict=True):
        if not files:
            raise InputError(f"inputs: {pattern} matches no file")
    return matched


def each_once(matched: Sequence[Sequence[FileStat]]) -> list[FileStat]:
    """The files of all patterns, sorted by URI."""
    found = {file.uri: file for files in matched for file in files}
    return [found[uri] for uri in sorted(found)]
