"""The format of token shards, and of the index over them.

A shard is an Arrow IPC file that is mapped into memory and read without copying. Its one record batch has a row for
each document: `input_ids: large_list<uint16 or uint32>` (uint16 where the vocabulary fits), `doc_id: int64` and
`source: dictionary`. The sequence length is not part of the format; whoever reads chooses it.

The index is `tokens.parquet`, beside the shards. Each of its rows is a range of a shard's documents that are of one
source, language and class of lengths. A mixture is an index alone: its rows are of other artifacts' shards, and may be
there several times.

Shape letters: D documents of a shard, T tokens of a shard.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import CorruptArtifact, InputError

INDEX = "tokens.parquet"


@dataclass(frozen=True)
class ShardEntry:
    """One row of the index: a range of a shard's documents."""

    name: str
    size: int  # bytes, of the whole shard
    sha256: str
    num_documents: int  # of the range
    num_tokens: int  # of the range
    heldout: bool = False  # whether it is kept out of training, for evaluation to read
    first_document: int = 0
    source: str = ""  # the URI of the input file; of small files that were packed, of their directory
    language: str = ""  # ISO 639 code; "" where it is unknown
    min_length: int = 0  # the lower end of its class of lengths: the tokens that each document has at least
    directory: str = ""  # where the shard lies, relative to the index; "": beside the index

    @property
    def file(self) -> WrittenFile:
        return WrittenFile(self.name, self.size, self.sha256)


_INDEX_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("num_documents", pa.int64()),
        ("num_tokens", pa.int64()),
        ("heldout", pa.bool_()),
        ("first_document", pa.int64()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("min_length", pa.int64()),
        ("directory", pa.string()),
    ]
)


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type of the format that holds all ids below `vocab_size`."""
    if vocab_size <= 1 << 16:
        return np.dtype(np.uint16)
    return np.dtype(np.uint32)


def write_token_shard(
    sink: BinaryIO,
    tokens_T: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    doc_ids_D: npt.NDArray[np.int64],
    sources_D: Sequence[str] | str,
) -> None:
    """Write one shard. `offsets` has D+1 entries; document d is `tokens_T[offsets[d]:offsets[d+1]]`.

    `sources_D` is the source of each document, or the one source of all. Raises `ValueError` for offsets that don't
    fit.
    """
    if len(offsets) != len(doc_ids_D) + 1 or offsets[0] != 0 or offsets[-1] != len(tokens_T):
        raise ValueError("offsets must have one entry more than there are documents and span all tokens")
    if isinstance(sources_D, str):
        sources = pa.DictionaryArray.from_arrays(np.zeros(len(doc_ids_D), np.int32), [sources_D])
    else:
        sources = pa.array(sources_D, pa.string()).dictionary_encode()
    input_ids = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(tokens_T))
    batch = pa.record_batch(
        {
            "input_ids": input_ids,
            "doc_id": pa.array(doc_ids_D, pa.int64()),
            "source": sources,
        }
    )
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


class TokenShard:
    """The arrays of a shard, or of a range of its documents, as views on the mapped file; a remote file is read once.

    Raises `CorruptArtifact` for a file that is no token shard, and for a local one of another size than `size`.
    """

    def __init__(self, uri: str, *, size: int | None = None) -> None:
        self.uri = uri
        self._whole: TokenShard | None = None
        self._mapping = _map_file(uri, size) if storage.is_local(uri) else None
        self._address = np.frombuffer(self._mapping, np.uint8).ctypes.data if self._mapping is not None else 0
        try:
            content = self._mapping if self._mapping is not None else storage.read_bytes(uri)
            batch = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(content))).get_batch(0)
            lists = batch.column("input_ids")
            self.tokens_T: npt.NDArray[Any] = _view(lists.values)
            # Of the documents in this view. They count from the shard's beginning, so that a view need not copy them.
            self.stored_offsets: npt.NDArray[np.int64] = _view(lists.offsets)
            self.doc_ids_D: npt.NDArray[np.int64] = _view(batch.column("doc_id"))
            self.sources_D = batch.column("source")
        except (pa.ArrowInvalid, KeyError, AttributeError) as error:
            raise CorruptArtifact(f"{uri} is not a token shard: {error}") from error

    def __len__(self) -> int:
        return len(self.doc_ids_D)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """[D+1] where documents begin in `tokens_T`; a copy in a view that does not begin with the shard's first."""
        first = self.stored_offsets[0]
        return self.stored_offsets - first if first else self.stored_offsets

    def part(self, first: int, count: int) -> TokenShard:
        """The `count` documents from number `first` on, as views. Raises `CorruptArtifact` where there are fewer."""
        if (first, count) == (0, len(self)):
            return self
        if not 0 <= first <= first + count <= len(self):
            raise CorruptArtifact(f"{self.uri} has {len(self)} documents; its index names {first} to {first + count}")
        part = copy(self)
        part._whole = self  # kept alive as long as the view, so that whoever keeps views finds the mapping they share
        part.stored_offsets = self.stored_offsets[first : first + count + 1]
        start, stop = part.stored_offsets[[0, -1]] - self.stored_offsets[0]
        part.tokens_T = self.tokens_T[start:stop]
        part.doc_ids_D = self.doc_ids_D[first : first + count]
        part.sources_D = self.sources_D[first : first + count]
        return part

    def document(self, row: int) -> npt.NDArray[Any]:
        """The token ids of one document."""
        start, stop = self.stored_offsets[row : row + 2] - self.stored_offsets[0]
        return self.tokens_T[start:stop]

    def expect_random_reads(self) -> None:
        """Have the operating system read only what is touched: a sample is far smaller than its usual read-ahead."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_RANDOM)

    def will_need(self, first_token: int, count: int) -> None:
        """Have the operating system begin to read `count` tokens of this view that will be touched soon."""
        if self._mapping is None or count <= 0:
            return
        start = self.tokens_T.ctypes.data - self._address + first_token * self.tokens_T.itemsize
        aligned = start - start % mmap.PAGESIZE
        self._mapping.madvise(mmap.MADV_WILLNEED, aligned, start - aligned + count * self.tokens_T.itemsize)

    def release_memory(self) -> None:
        """Take pages touched so far out of this process's memory. They stay in the page cache; views stay valid."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)


def _view(array: pa.Array) -> npt.NDArray[Any]:
    """An Arrow array of integers, without a copy. Arrow's own `to_numpy` would load pandas first, for half a second."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    if len(array) == 0:
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _map_file(uri: str, size: int | None) -> mmap.mmap:
    """A read-only mapping of a local file."""
    with open(storage.local_path(uri), "rb") as stream:
        found = os.fstat(stream.fileno()).st_size
        if size is not None and found != size:
            raise CorruptArtifact(f"{uri} has {found} bytes; its index says {size}")
        if found == 0:
            raise CorruptArtifact(f"{uri} is not a token shard: it is empty")
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def write_token_index(directory: str, entries: Sequence[ShardEntry]) -> bytes:
    """Write the index of a tokens artifact or mixture; returns its bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(e) for e in entries], schema=_INDEX_SCHEMA), sink)
    content = sink.getvalue().to_pybytes()
    storage.write_bytes(storage.join(directory, INDEX), content)
    return content


def read_token_index(directory: str) -> list[ShardEntry]:
    """The rows of an index, in order. Raises `CorruptArtifact` for a shard that is missing or of another size."""
    entries = list_token_index(directory)
    sizes = {uri: entry.size for uri, entry in zip(shard_uris(directory, entries), entries, strict=True)}
    for (uri, size), found in zip(sizes.items(), storage.file_sizes(list(sizes)), strict=True):
        if found is None:
            raise CorruptArtifact(f"{uri} is missing; {directory}/{INDEX} says {size} bytes")
        if found != size:
            raise CorruptArtifact(f"{uri} has {found} bytes; {directory}/{INDEX} says {size}")
    return entries


def list_token_index(directory: str) -> list[ShardEntry]:
    """The rows of an index, in order, without a look at the shards. Raises `InputError` where there is no index."""
    try:
        table = storage.read_table(storage.join(directory, INDEX))
    except FileNotFoundError as error:
        raise InputError(f"{directory} is no tokens artifact: it has no {INDEX}") from error
    names = [field.name for field in fields(ShardEntry) if field.name in table.column_names]
    columns = [table.column(name).to_pylist() for name in names]
    return list(map(ShardEntry, *columns))  # what an older index lacks are the last fields, which have defaults


def shard_uris(directory: str, entries: Sequence[ShardEntry]) -> list[str]:
    """The URI of the shard of each row of the index in `directory`."""
    distinct = {(entry.directory, entry.name): entry for entry in entries}
    by_place = {entry.directory: entry for entry in distinct.values()}
    places = {place: shard_directory(directory, entry) for place, entry in by_place.items()}
    uris = {shard: storage.join(places[shard[0]], shard[1]) for shard in distinct}
    return [uris[entry.directory, entry.name] for entry in entries]


def shard_directory(directory: str, entry: ShardEntry) -> str:
    """The directory of the shard of a row of the index in `directory`."""
    return storage.absolute_uri(entry.directory, base=directory) if entry.directory else directory


def open_shards(directory: str, *, heldout: bool) -> list[TokenShard]:
    """The training documents of a tokens artifact or mixture, or the held-out ones: a view a row of the index."""
    entries = [entry for entry in read_token_index(directory) if entry.heldout == heldout]
    uris = shard_uris(directory, entries)
    shards = {uri: TokenShard(uri) for uri in dict.fromkeys(uris)}
    return [shards[uri].part(e.first_document, e.num_documents) for uri, e in zip(uris, entries, strict=True)]
