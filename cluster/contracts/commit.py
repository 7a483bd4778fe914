"""All-or-nothing output of one unit of work, on local disks and on stores that can't rename files.

A unit (an input shard of a stage, a checkpoint) writes its files under names that no other attempt has. Then it writes
one small marker, `_committed/<key>.json`, with the name, size and SHA-256 of each file, which are taken while writing.
Readers follow markers only. So a writer that is killed, or a stream that an exception closes half-way (which pyarrow
publishes), leaves files that nobody sees, until `sweep` removes them.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, cast

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.retry import retrying_as_here

MARKERS = "_committed"
_READER_THREADS = 16  # that read markers on a remote store
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


@dataclass(frozen=True)
class WrittenFile:
    """A complete file: its name, relative to the directory it is listed for, and what to check it by."""

    name: str
    size: int  # bytes
    sha256: str  # hex


@dataclass(frozen=True)
class CommittedPart:
    """What one unit of work committed: its files by role, and what it counted."""

    key: str
    files: dict[str, WrittenFile]
    metrics: dict[str, Any] = field(default_factory=dict)


class HashingStream(io.RawIOBase):
    """A write-only stream that counts and hashes (SHA-256) what it passes on to `sink`."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._sha256 = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._sink.write(view)
        self._sha256.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def written(self, name: str) -> WrittenFile:
        """What to record of the file after all that was written so far."""
        return WrittenFile(name, self.size, self._sha256.hexdigest())


class PartWriter:
    """Opens the files of one unit and notes what was written; see `commit_part`."""

    def __init__(self, directory: str, key: str) -> None:
        if not _KEY.fullmatch(key):
            raise ValueError(f"part key {key!r} must match {_KEY.pattern}")
        self.directory, self.key = directory, key
        self.attempt = uuid.uuid4().hex[:12]
        self.files: dict[str, WrittenFile] = {}
        self.metrics: dict[str, Any] = {}
        self._opened: set[str] = set()

    def name_for(self, suffix: str) -> str:
        """A file name that no other attempt has."""
        return f"{self.key}.{self.attempt}.{suffix}"

    @contextmanager
    def open(self, role: str, suffix: str) -> Iterator[BinaryIO]:
        """A binary stream for the file that the marker calls `role`, whose name ends in `suffix` ("docs.parquet")."""
        name = self.name_for(suffix)
        if name in self._opened:
            raise ValueError(f"part {self.key!r} has a file that ends in {suffix!r} already; each needs its own suffix")
        self._opened.add(name)
        storage.make_directory(self.directory)
        filesystem, path = storage.locate(storage.join(self.directory, name))
        with filesystem.open_output_stream(path, compression=None) as sink:
            stream = HashingStream(cast(BinaryIO, sink))
            yield cast(BinaryIO, stream)
        self.files[role] = stream.written(name)


@contextmanager
def commit_part(directory: str, key: str) -> Iterator[PartWriter]:
    """Write the files of unit `key`. They count only if the block ends without an exception.

    >>> with commit_part(uri, "shard-00003") as part:
    ...     with part.open("documents", "parquet") as sink:
    ...         sink.write(b"...")
    ...     part.metrics["rows"] = 17
    """
    part = PartWriter(directory, key)
    yield part
    marker = {"files": {role: asdict(file) for role, file in part.files.items()}, "metrics": part.metrics}
    storage.write_bytes(_marker_uri(directory, key), json.dumps(marker, sort_keys=True).encode())


def committed_part(directory: str, key: str) -> CommittedPart | None:
    """What unit `key` committed; None where it did not."""
    try:
        return _parse_marker(key, storage.read_bytes(_marker_uri(directory, key)))
    except FileNotFoundError:
        return None


def committed_parts(directory: str) -> dict[str, CommittedPart]:
    """All units committed in a directory, by key, sorted."""
    markers = [file.uri for file in storage.list_files(storage.join(directory, MARKERS)) if file.uri.endswith(".json")]
    keys = [uri.rsplit("/", 1)[1].removesuffix(".json") for uri in markers]
    if storage.is_local(directory):
        contents = [storage.read_bytes(uri) for uri in markers]
    else:
        with ThreadPoolExecutor(_READER_THREADS) as pool:
            contents = list(pool.map(retrying_as_here(storage.read_bytes), markers))
    return {key: _parse_marker(key, content) for key, content in sorted(zip(keys, contents, strict=True))}


def remove_part(directory: str, key: str) -> None:
    """Remove a unit: its marker first, so that no reader finds a marker whose files are gone."""
    part = committed_part(directory, key)
    storage.delete_file(_marker_uri(directory, key))
    for file in part.files.values() if part else ():
        storage.delete_file(storage.join(directory, file.name))


def sweep(directory: str) -> list[str]:
    """Remove the files of dead attempts directly below `directory`; returns their names.

    It must not be called while an attempt is under way. Files that `commit_part` did not write, whose names have no
    attempt in them, are left alone.
    """
    kept = {file.name for part in committed_parts(directory).values() for file in part.files.values()}
    removed = []
    for found in storage.list_files(directory):
        name = found.uri.rsplit("/", 1)[1]
        if name not in kept and re.search(r"\.[0-9a-f]{12}\.", name):
            storage.delete_file(found.uri)
            removed.append(name)
    return removed


def check_size(directory: str, file: WrittenFile) -> str:
    """The URI of a committed file. Raises `CorruptArtifact` where it is missing or of another size."""
    uri = storage.join(directory, file.name)
    try:
        size = storage.stat(uri).size
    except FileNotFoundError as error:
        raise CorruptArtifact(f"{uri} is missing; its commit marker says {file.size} bytes") from error
    if size != file.size:
        raise CorruptArtifact(f"{uri} has {size} bytes; its commit marker says {file.size}")
    return uri


def check_content(directory: str, file: WrittenFile, *, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """The URI of a committed file, which is read. Raises `CorruptArtifact` for another size or SHA-256.

    `on_bytes` is called with the size of each chunk that was read.
    """
    uri = check_size(directory, file)
    filesystem, path = storage.locate(uri)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            on_bytes(len(chunk))
    if digest.hexdigest() != file.sha256:
        raise CorruptArtifact(f"{uri} has SHA-256 {digest.hexdigest()}; its commit marker says {file.sha256}")
    return uri


def _marker_uri(directory: str, key: str) -> str:
    return storage.join(directory, MARKERS, f"{key}.json")


def _parse_marker(key: str, content: bytes) -> CommittedPart:
    marker: Mapping[str, Any] = json.loads(content)
    return CommittedPart(key, {r: WrittenFile(**f) for r, f in marker["files"].items()}, marker["metrics"])
