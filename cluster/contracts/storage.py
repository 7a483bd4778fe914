"""Files by their URI: every path in Raymill is one, and this module is the only place that opens them.

`/data/x`, `file:///data/x` and `s3://bucket/x` (anything that `pyarrow.fs` can resolve) are taken alike. Credentials
and endpoints come from the environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...), never from a spec. Where a
remote store fails for a while, each function tries again (`PATIENCE`); then a `StorageError` says what was asked of the
store.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cluster.contracts.errors import CorruptArtifact, InputError, StorageError
from cluster.contracts.retry import Backoff, retrying

P = ParamSpec("P")
T = TypeVar("T")

LIST_SUFFIX = ".list"
PATIENCE = Backoff()  # with 6 s that pyarrow's S3 client tries in each attempt, a store has some 80 s to come back
_GLOB_CHARACTERS = frozenset("*?[")
_SHOWN_NAMES = 5  # how many files with bad names an error lists


@dataclass(frozen=True)
class FileStat:
    """What tells one version of a file from another without reading it."""

    uri: str
    size: int  # bytes
    mtime_ns: int  # 0 where the store keeps none


def _retried(verb: str) -> Callable[[Callable[Concatenate[str, P], T]], Callable[Concatenate[str, P], T]]:
    """Have a function of a URI tried again where a remote store fails; errors of the local disk are raised at once."""

    def decorate(function: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
        @wraps(function)
        def retried(uri: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
            operation = partial(function, uri, *args, **kwargs)
            return operation() if is_local(uri) else retrying(operation, PATIENCE, asked=f"{verb} {uri}")

        return retried

    return decorate


def is_local(uri: str) -> bool:
    """Whether `uri` is on this machine's file system."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path of a local URI. Raises `StorageError` for a remote one."""
    if not is_local(uri):
        raise StorageError(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://"))


def locate(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `uri` and the path inside it."""
    try:
        if is_local(uri):
            return pafs.LocalFileSystem(), os.path.abspath(local_path(uri))
        return pafs.FileSystem.from_uri(uri)
    except Exception as error:
        raise StorageError(f"can't resolve {uri!r}: {error}") from error


def join(uri: str, *parts: str) -> str:
    """`uri` extended by path `parts`, with single slashes."""
    if not parts:
        return uri
    scheme, separator, path = uri.partition("://")
    if separator:
        return f"{scheme}://{posixpath.join(path, *parts)}"
    return posixpath.join(uri, *parts)


def relative_uri(uri: str, *, base: str) -> str:
    """`uri` as seen from the directory `base`; `uri` itself where the two are on different stores."""
    uri_store, uri_path = _split(uri)
    base_store, base_path = _split(base)
    return posixpath.relpath(uri_path, base_path) if uri_store == base_store else uri


def absolute_uri(relative: str, *, base: str) -> str:
    """The inverse of `relative_uri`."""
    if "://" in relative or relative.startswith("/"):
        return relative
    store, path = _split(base)
    return store + posixpath.normpath(posixpath.join(path, relative))


def _split(uri: str) -> tuple[str, str]:
    """The store ("" for the local disk, "s3://bucket") and the absolute path in it."""
    if is_local(uri):
        return "", locate(uri)[1]
    scheme, _, rest = uri.partition("://")
    store, _, path = rest.partition("/")
    return f"{scheme}://{store}", f"/{path}"


@_retried("look for")
def exists(uri: str) -> bool:
    """Whether a file or directory is there."""
    filesystem, path = locate(uri)
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


@_retried("look for")
def stat(uri: str) -> FileStat:
    """Size and modification time of one file. Raises `FileNotFoundError`."""
    filesystem, path = locate(uri)
    info = filesystem.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(uri)
    return FileStat(uri, info.size, info.mtime_ns or 0)


def file_sizes(uris: Sequence[str]) -> list[int | None]:
    """The sizes of many files in bytes, None where there is no file. Each store is asked about all its files once."""
    by_store: dict[str, list[int]] = {}
    for number, uri in enumerate(uris):
        by_store.setdefault("" if is_local(uri) else "/".join(uri.split("/")[:3]), []).append(number)
    sizes: list[int | None] = [None] * len(uris)
    for numbers in by_store.values():
        of_store = [uris[number] for number in numbers]
        for number, size in zip(numbers, _sizes_in_store(of_store[0], of_store), strict=True):
            sizes[number] = size
    return sizes


@_retried("look for")
def _sizes_in_store(first_uri: str, uris: Sequence[str]) -> list[int | None]:
    filesystem, first = locate(first_uri)
    if is_local(first_uri):
        paths = [os.path.abspath(uri.removeprefix("file://")) for uri in uris]
    elif first == first_uri.partition("://")[2]:  # s3, gs: finding the bucket's region is a request
        paths = [uri.partition("://")[2] for uri in uris]
    else:
        paths = [locate(uri)[1] for uri in uris]
    found = filesystem.get_file_info(paths)
    return [info.size if info.type == pafs.FileType.File else None for info in found]


@_retried("list")
def list_files(uri: str, *, recursive: bool = False) -> list[FileStat]:
    """The files in a directory, sorted by URI; a directory that does not exist has none.

    Raises `InputError`, which names them, for files whose name is not UTF-8.
    """
    _check_name(uri)
    filesystem, path = locate(uri)
    selector = pafs.FileSelector(path, recursive=recursive, allow_not_found=True)
    try:
        found = [
            FileStat(join(uri, posixpath.relpath(info.path, path)), info.size, info.mtime_ns or 0)
            for info in filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File
        ]
    except UnicodeDecodeError as error:  # Arrow's paths are text
        raise InputError(_unreadable_names(path, recursive, error)) from error
    return sorted(found, key=lambda file: file.uri)


def _check_name(uri: str) -> None:
    """Raise `InputError` for a path with bytes that are not UTF-8, which Python escapes in paths."""
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{_escaped(uri)}: the name is not UTF-8; rename the file or folder") from error


def _unreadable_names(path: str, recursive: bool, problem: UnicodeDecodeError) -> str:
    """The message for a local directory in which some files have names that are not UTF-8."""
    bad: list[str] = []
    for folder, folders, files in os.walk(path):  # names as Python escapes them
        bad += [_escaped(os.path.join(folder, name)) for name in folders + files if not _is_utf8(name)]
        if not recursive:
            break
    if not bad:
        return f"{path}: a name in it is not UTF-8 ({problem}); rename it"
    bad.sort()
    more = f" and {len(bad) - _SHOWN_NAMES} more" if len(bad) > _SHOWN_NAMES else ""
    return f"{', '.join(bad[:_SHOWN_NAMES])}{more}: names that are not UTF-8; rename these files or folders"


def _escaped(path: str) -> str:
    """A path as messages show it, with bytes that are no text as `\\xe9`."""
    try:
        return repr(os.fsencode(path)).removeprefix("b")
    except UnicodeEncodeError:  # other surrogates, which stand for no bytes
        return ascii(path)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@_retried("list")
def expand(pattern: str) -> list[FileStat]:
    """The files that a path, directory, glob or list stands for, sorted by URI; none where nothing matches.

    `*`, `?` and `[...]` match within the whole path from the first component with one of them on, so
    `s3://b/crawl/*.warc.gz` also matches in deeper folders. As in a shell, neither a glob nor a directory stands for
    what is hidden: files and folders below it whose name begins with a dot. A name that ends in `.list` is a text file
    with a path, directory or glob on each line, relative to the list; blank lines and those that begin with `#` are
    skipped. Raises `InputError` for a line of a list that matches nothing, and for a name that is not UTF-8.
    """
    _check_name(pattern)
    if pattern.endswith(LIST_SUFFIX):
        return _expand_list(pattern)
    if not _GLOB_CHARACTERS & set(pattern):
        filesystem, path = locate(pattern)
        kind = filesystem.get_file_info(path).type
        if kind == pafs.FileType.File:
            return [stat(pattern)]
        if kind != pafs.FileType.Directory:
            return []
        root, matching = pattern, "*"
    else:
        components = pattern.split("/")
        first_glob = next(i for i, part in enumerate(components) if _GLOB_CHARACTERS & set(part))
        root = "/".join(components[:first_glob]) or ("/" if pattern.startswith("/") else ".")
        matching = "/".join(components[first_glob:])
    prefix = len(root.rstrip("/")) + 1
    named = [(file, file.uri[prefix:]) for file in list_files(root, recursive=True)]
    return [file for file, name in named if fnmatch.fnmatch(name, matching) and not _is_hidden(name)]


def _is_hidden(path: str) -> bool:
    return path.startswith(".") or "/." in path


def _expand_list(uri: str) -> list[FileStat]:
    """The files that the lines of a list stand for. Plain paths are looked up all together."""
    try:
        lines = read_bytes(uri).decode().splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise InputError(f"{uri} is no list of inputs: it is not UTF-8 text ({error})") from error
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    found: dict[str, FileStat] = {}
    plain: dict[str, list[str]] = {}  # by store
    for entry in entries:
        if entry.endswith(LIST_SUFFIX):
            raise InputError(f"{uri}: {entry}: a list can't name another list")
        resolved = entry if "://" in entry or entry.startswith("/") else join(posixpath.dirname(uri), entry)
        if _GLOB_CHARACTERS & set(resolved):
            matched = expand(resolved)
            if not matched:
                raise InputError(f"{uri}: {entry} matches no file")
            found.update((file.uri, file) for file in matched)
        else:
            store = "/".join(resolved.split("/")[:3]) if "://" in resolved else ""  # "s3://bucket"
            plain.setdefault(store, []).append(resolved)
    for uris in plain.values():
        filesystem = locate(uris[0])[0]
        for target, info in zip(uris, filesystem.get_file_info([locate(u)[1] for u in uris]), strict=True):
            if info.type == pafs.FileType.File:
                found[target] = FileStat(target, info.size, info.mtime_ns or 0)
            elif info.type == pafs.FileType.Directory:
                found.update((file.uri, file) for file in expand(target))
            else:
                raise InputError(f"{uri}: {target} does not exist")
    return [found[target] for target in sorted(found)]


@_retried("read")
def read_bytes(uri: str) -> bytes:
    """The content of one file. Raises `FileNotFoundError`."""
    filesystem, path = locate(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


@contextmanager
def open_table(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, to be read row group by row group. Raises `FileNotFoundError`; reads are not tried again."""
    filesystem, path = locate(uri)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        yield file


@_retried("read")
def read_table(uri: str, *, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """A Parquet file as a table: all of it, some columns, or the rows that `filters` (as pyarrow's) leave.

    Raises `FileNotFoundError`, and `CorruptArtifact` for a column that is not there.
    """
    with open_table(uri) as file:
        names = file.schema_arrow.names
        if missing := [column for column in columns or () if column not in names]:
            raise CorruptArtifact(f"{uri} has no column {', '.join(missing)}; it has {', '.join(names)}")
        if filters is None:
            return file.read(columns=None if columns is None else list(columns))
    filesystem, path = locate(uri)
    # Loads the dataset library first, which takes a third of a second.
    return pq.read_table(
        path, filesystem=filesystem, columns=None if columns is None else list(columns), filters=filters
    )


@_retried("read")
def read_schema(uri: str) -> pa.Schema:
    """The schema of a Parquet file. Raises `FileNotFoundError`."""
    filesystem, path = locate(uri)
    return pq.read_schema(path, filesystem=filesystem)


@_retried("write")
def write_bytes(uri: str, content: bytes) -> None:
    """Write a small file, so that readers see the old content or the new, and never a part of it.

    A local file is renamed into place. On an object store one PUT is atomic by itself.
    """
    filesystem, path = locate(uri)
    make_directory(posixpath.dirname(uri))
    if isinstance(filesystem, pafs.LocalFileSystem):
        attempt = f"{path}.{uuid.uuid4().hex}.tmp"
        with open(attempt, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(attempt, path)
        return
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def make_directory(uri: str) -> None:
    """Create a directory and its parents. An object store needs none."""
    if is_local(uri):
        locate(uri)[0].create_dir(locate(uri)[1], recursive=True)


@_retried("delete")
def delete_file(uri: str) -> None:
    """Remove a file. It is no error if there is none."""
    filesystem, path = locate(uri)
    try:
        filesystem.delete_file(path)
    except FileNotFoundError:
        pass


@_retried("delete")
def delete_directory(uri: str) -> None:
    """Remove a directory and all in it. It is no error if there is none."""
    filesystem, path = locate(uri)
    try:
        filesystem.delete_dir(path)
    except FileNotFoundError:
        pass


def upload_file(source: Path, uri: str) -> None:
    """Copy a local file to `uri`."""
    _receive(uri, source)


@_retried("write")
def _receive(uri: str, source: Path) -> None:
    make_directory(posixpath.dirname(uri))
    filesystem, path = locate(uri)
    pafs.copy_files(str(source), path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=filesystem)


@_retried("read")
def download_file(uri: str, target: Path) -> None:
    """Copy the file at `uri` to a local path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_local(uri):
        shutil.copyfile(local_path(uri), target)
        return
    filesystem, path = locate(uri)
    pafs.copy_files(path, str(target), source_filesystem=filesystem, destination_filesystem=pafs.LocalFileSystem())


@contextmanager
def local_copy(uri: str, scratch: Path) -> Iterator[Path]:
    """A local directory with the files of the directory `uri`: itself where that is local, else a copy in `scratch`."""
    if is_local(uri):
        yield local_path(uri)
        return
    target = scratch / uuid.uuid4().hex
    for file in list_files(uri, recursive=True):
        download_file(file.uri, target / file.uri[len(uri) :].lstrip("/"))
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)
