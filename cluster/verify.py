"""The full check of an artifact or a run: every file is read, and compared with its size and SHA-256 when written.

Opening an artifact checks sizes only, since reading a hundred gigabytes takes minutes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from cluster.contracts import storage
from cluster.contracts.artifacts import FILE_LIST, MANIFEST, Artifact, open_artifact
from cluster.contracts.commit import WrittenFile, check_content
from cluster.contracts.errors import CorruptArtifact, InputError, StorageError
from cluster.contracts.retry import is_passing, retrying
from cluster.contracts.tokens import INDEX, list_token_index, shard_uris
from cluster.run_record import read_run
from dataprep.documents import SHARD_TABLE, read_shard_table

_READERS = 8  # files read at a time; hashing leaves the interpreter's lock alone


@dataclass(frozen=True)
class BadFile:
    """A file that is not as it was written, and what is wrong with it."""

    uri: str
    problem: str


def artifacts_of(target: str, storage_uri: str) -> dict[str, Artifact]:
    """Stage name -> artifact: the one at the URI `target`, or all finished ones of the run called `target`.

    Raises `InputError` where there is neither.
    """
    if not target.endswith(".json") and storage.exists(storage.join(target, MANIFEST)):
        return {target: open_artifact(target)}
    artifacts = read_run(target, storage_uri).artifacts()
    if not artifacts:
        raise InputError(f"run {target} has no finished stage yet; there is nothing to verify")
    return artifacts


def expected_files(artifacts: Mapping[str, Artifact]) -> tuple[dict[str, WrittenFile], list[BadFile]]:
    """(URI -> size and SHA-256 of each file that should be there, the lists of files that can't be read themselves).

    Where an artifact's file is a table of files elsewhere, those count too: the token shards that a mixture's index
    names, and the documents, signatures and so on that a shard table names, which lie in parts that artifacts share.
    """
    files: dict[str, WrittenFile] = {}
    unlisted = []
    for artifact in artifacts.values():
        try:
            for file in artifact.files():
                files.setdefault(artifact.path(file.name), file)
            if storage.exists(artifact.path(INDEX)):
                entries = list_token_index(artifact.uri)
                for uri, entry in zip(shard_uris(artifact.uri, entries), entries, strict=True):
                    files.setdefault(uri, entry.file)
            if storage.exists(artifact.path(SHARD_TABLE)):
                for shard in read_shard_table(artifact.uri):
                    parts = storage.absolute_uri(shard.parts, base=artifact.uri)
                    files.update((storage.join(parts, file.name), file) for file in shard.part_files())
        except (FileNotFoundError, OSError, ValueError, StorageError, InputError) as error:
            unlisted.append(BadFile(artifact.path(FILE_LIST), f"the list of files can't be read: {error}"))
    return files, unlisted


def bad_files(files: Mapping[str, WrittenFile], on_bytes: Callable[[int], None]) -> Iterator[BadFile]:
    """Yield every file whose size or content differs from what is listed, as soon as it is found.

    `on_bytes` is called with the number of bytes read since its last call; a byte that is read again counts once.
    """
    lock = threading.Lock()

    def read(count: int) -> None:
        with lock:
            on_bytes(count)

    def check(uri: str) -> BadFile | None:
        directory = uri.rpartition("/")[0]
        name = WrittenFile(uri.rpartition("/")[2], files[uri].size, files[uri].sha256)
        furthest = 0

        def attempt() -> None:
            position = 0

            def read_more(count: int) -> None:
                nonlocal position, furthest
                position += count
                if position > furthest:
                    read(position - furthest)
                    furthest = position

            check_content(directory, name, on_bytes=read_more)

        try:
            attempt() if storage.is_local(uri) else retrying(attempt, storage.PATIENCE)
        except CorruptArtifact as error:
            return BadFile(uri, str(error).removeprefix(uri).strip())
        except Exception as error:
            tried_again = not storage.is_local(uri) and is_passing(error)
            return BadFile(uri, f"can't be read{', after several attempts' if tried_again else ''}: {error}")
        return None

    with ThreadPoolExecutor(_READERS, "verify") as readers:
        try:
            for done in as_completed([readers.submit(check, uri) for uri in files]):
                if (found := done.result()) is not None:
                    yield found
        finally:
            readers.shutdown(cancel_futures=True)
