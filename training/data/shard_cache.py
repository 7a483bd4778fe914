"""Local copies of remote token shards, shared by the processes of a machine.

A shard is downloaded once, by whichever process needs it first, checked against the size and the SHA-256 in the index,
and renamed into place; from there all processes map it. Its file is named by the checksum, so different runs share
copies too. Copies stay when a run ends. Where there is a budget, the copies used longest ago make room for new ones; a
process that has a removed copy mapped can go on reading it.

All this holds when processes are killed: a lock dies with its process, and the next process that wants the shard writes
over what was left half-way.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact, InputError, ResourceError
from cluster.contracts.progress import Progress
from cluster.contracts.retry import Backoff, retrying
from cluster.contracts.tokens import ShardEntry

_DOWNLOADS = 8  # at a time, in each process
_CHUNK = 4 << 20
_COPY, _PARTIAL = ".arrow", ".partial"


def default_directory() -> Path:
    """Where copies lie unless a spec says otherwise: below the system's temporary directory, one for each user."""
    return Path(tempfile.gettempdir()) / f"raymill-shards-{os.getuid()}"


class ShardCache:
    """Copies in `directory`, of `budget_bytes` in all where that is given. `backoff`: patience with the store."""

    def __init__(self, directory: Path, *, budget_bytes: int | None, backoff: Backoff | None = None) -> None:
        self.directory = directory
        self._budget_bytes = budget_bytes
        self._backoff = backoff or Backoff()
        self._pool = ThreadPoolExecutor(_DOWNLOADS, "raymill-shards")
        self._under_way: dict[str, Future[Path]] = {}
        self._kept: frozenset[str] = frozenset()  # names that make no room for others: in use, or needed soon
        self._always_kept: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def localise(self, uri: str, entry: ShardEntry) -> str:
        """Where to read a shard from: itself where it is local, else its copy, downloaded if need be.

        Raises `CorruptArtifact` for a shard that is not the one in the index, `ResourceError` where there is no room.
        """
        return uri if storage.is_local(uri) else str(self._start(uri, entry).result())

    def fetch_all(self, shards: Mapping[str, ShardEntry], progress: Progress) -> None:
        """Download what is missing of these remote shards, by URI, and keep them all; returns when they are there."""
        remote = {uri: entry for uri, entry in shards.items() if not storage.is_local(uri)}
        self._always_kept |= {_name(uri, entry) for uri, entry in remote.items()}
        missing = {uri: entry for uri, entry in remote.items() if not _touched(self._copy(uri, entry), entry.size)}
        total, done = sum(entry.size for entry in missing.values()), 0
        # In an order of its own, so that the processes of a machine do not all wait for one another's downloads.
        order = random.sample(list(missing), len(missing))
        futures = {self._start(uri, missing[uri]): missing[uri].size for uri in order}
        for future in as_completed(futures):
            future.result()
            done += futures[future]
            progress.update(done / 1e6, total / 1e6, "MB fetched")

    def fetch_ahead(self, shards: Mapping[str, ShardEntry]) -> None:
        """Begin to download these shards, by URI, and let go of others for them. Does not wait."""
        remote = {uri: entry for uri, entry in shards.items() if not storage.is_local(uri)}
        self._kept = frozenset(_name(uri, entry) for uri, entry in remote.items())
        for uri, entry in remote.items():
            self._start(uri, entry)

    def _start(self, uri: str, entry: ShardEntry) -> Future[Path]:
        """The download of a shard, or what is there of it."""
        with self._lock:
            under_way = self._under_way.get(uri)
            if under_way is None or under_way.done():
                under_way = self._pool.submit(self._provide, uri, entry)
                self._under_way[uri] = under_way
            return under_way

    def _provide(self, uri: str, entry: ShardEntry) -> Path:
        copy = self._copy(uri, entry)
        if _touched(copy, entry.size):
            return copy
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.directory.stat().st_uid != os.getuid():
            raise ResourceError(f"the data cache {self.directory} is another user's; set data_cache to one of yours")
        partial = copy.with_suffix(_PARTIAL)
        with _locked(partial) as sink:
            if _touched(copy, entry.size):  # another process was first
                partial.unlink()
                return copy
            try:
                self._make_room(sink, entry.size)
                retrying(lambda: _download(uri, entry, sink), self._backoff)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ResourceError(
                        f"no room for {uri} ({entry.size} bytes) in the data cache {self.directory}; free some, name "
                        "a larger disk as data_cache, or set data_cache_gib and `shuffle: windows`"
                    ) from error
                raise
            os.replace(partial, copy)
        return copy

    def _copy(self, uri: str, entry: ShardEntry) -> Path:
        return self.directory / _name(uri, entry)

    def _make_room(self, sink: BinaryIO, size: int) -> None:
        """Give `sink` its size, once the copies used longest ago were removed for it as far as the budget asks."""
        if self._budget_bytes is None:
            return
        with _locked(self.directory / "eviction.lock"):
            stored = sorted(_stored_files(self.directory))
            excess = sum(file_size for _, file_size, _ in stored) + size - self._budget_bytes
            for _, file_size, path in stored:
                if excess <= 0:
                    break
                if self._is_spare(path):
                    path.unlink(missing_ok=True)
                    excess -= file_size
            if excess > 0:
                raise ResourceError(
                    f"a shard of {size} bytes is {excess} bytes too many for data_cache_gib "
                    f"({_gib(self._budget_bytes)}), beside those needed soon; raise it, or lower shuffle_window"
                )
            os.ftruncate(sink.fileno(), size)  # so that others count it

    def _is_spare(self, path: Path) -> bool:
        if path.suffix == _COPY:
            return path.name not in self._kept | self._always_kept
        return _abandoned(path)


def check_budget(
    entries: Sequence[ShardEntry], uris: Sequence[str], *, budget_bytes: int | None, window_tokens: int | None
) -> None:
    """Raise `InputError` where a budget can't hold the remote shards that are needed at a time.

    `entries` are all rows of the index, `uris` their shards. Needed are the held-out shards, and of the others all, or
    with `window_tokens`, the length of a window of the order, those of two windows: the one at hand and the next.
    """
    sizes = {uri: entry.size for uri, entry in zip(uris, entries, strict=True) if not storage.is_local(uri)}
    total = sum(sizes.values())
    if budget_bytes is None or total <= budget_bytes:
        return
    heldout = {uri for uri, entry in zip(uris, entries, strict=True) if entry.heldout}
    if window_tokens is None:
        raise InputError(
            f"the shards have {_gib(total)} GiB and data_cache_gib is {_gib(budget_bytes)}, and samples are drawn from "
            "all shards at any time; raise data_cache_gib, or set `shuffle: windows`, which needs a part at a time"
        )
    largest, position = 0, 0
    window: int | None = None
    shards: set[str] = set()
    for uri, entry in zip(uris, entries, strict=True):
        if entry.heldout:
            continue
        first, position = position, position + entry.num_tokens
        for number in range(first // window_tokens, -(-position // window_tokens)):
            if number != window:
                window, shards = number, set()
            shards.add(uri)
            largest = max(largest, sum(sizes.get(shard, 0) for shard in shards - heldout))
    needed = 2 * largest + sum(sizes.get(uri, 0) for uri in heldout)
    if needed > budget_bytes:
        raise InputError(
            f"two windows of the order and the held-out shards need {_gib(needed)} GiB, and data_cache_gib is "
            f"{_gib(budget_bytes)}; raise it, or lower shuffle_window"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g}"


def _name(uri: str, entry: ShardEntry) -> str:
    return (entry.sha256 or hashlib.sha256(f"{uri} {entry.size}".encode()).hexdigest()) + _COPY


def _stored_files(directory: Path) -> Iterator[tuple[int, int, Path]]:
    """(last use, bytes, path) of all copies, finished or not."""
    for path in directory.iterdir():
        if path.suffix in (_COPY, _PARTIAL):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            yield stat.st_mtime_ns, stat.st_size, path


def _touched(copy: Path, size: int) -> bool:
    """Whether the copy is there, in its size; if so it counts as just used."""
    try:
        os.utime(copy)
        return copy.stat().st_size == size
    except FileNotFoundError:
        return False


def _download(uri: str, entry: ShardEntry, sink: BinaryIO) -> None:
    """Write the shard to the beginning of `sink` and check it."""
    sink.seek(0)
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(uri):
        sink.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    sink.truncate()
    sink.flush()
    os.fsync(sink.fileno())
    if size != entry.size:
        raise CorruptArtifact(f"{uri} came with {size} bytes; its index says {entry.size}")
    if entry.sha256 and digest.hexdigest() != entry.sha256:
        raise CorruptArtifact(f"{uri} came with SHA-256 {digest.hexdigest()}; its index says {entry.sha256}")


def _chunks(uri: str) -> Iterable[bytes]:
    filesystem, path = storage.locate(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, made if absent, held by this thread alone until the block ends or the process dies."""
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                is_current = os.fstat(stream.fileno()).st_ino == os.stat(path).st_ino
            except FileNotFoundError:
                is_current = False
            if is_current:
                yield stream
                return
        # Renamed or removed by its last holder while we waited: what is at `path` now is another file.


def _abandoned(path: Path) -> bool:
    """Whether nobody writes this file any more."""
    try:
        with open(path, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True
