"""The token-shard format: memory-mappable Arrow IPC, one row per document, read without copying.

A shard holds one record batch with `input_ids: large_list<uint16 or uint32>` (uint16 where the vocabulary
fits), `doc_id: int64` and `source: dictionary`. `tokens.parquet` beside the shards is the index. Each of its rows is a
range of a shard's documents that are of one source, language and class of lengths; a mixture is an index alone, whose
rows lie in other artifacts' shards and may be repeated. Sequence length is chosen by the reader.

Shape letters: D documents of a shard, T tokens of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.commit import WrittenFile, check_size
from cluster.contracts.errors import CorruptArtifact, InputError

INDEX = "tokens.parquet"


@dataclass(frozen=True)
class ShardEntry:
    """One row of the index: a range of a shard's documents."""

    name: str
    size: int  # bytes, of the whole shard
    sha256: str
    num_documents: int  # of the range, as the tokens
    num_tokens: int
    heldout: bool = False  # kept out of training; read by evaluation
    first_document: int = 0
    source: str = ""  # the input file's name
    language: str = ""  # ISO 639 code; "" where it is unknown
    min_length: int = 0  # tokens that each of its documents has at least: the lower end of its class of lengths
    directory: str = ""  # where the shard lies, relative to the index; "": beside it

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
    """The smallest dtype of the format that holds ids below `vocab_size`."""
    if vocab_size <= 1 << 16:
        return np.dtype(np.uint16)
    return np.dtype(np.uint32)


def write_token_shard(
    sink: BinaryIO,
    tokens_T: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    doc_ids_D: npt.NDArray[np.int64],
    sources_D: Sequence[str],
) -> None:
    """Write one shard. `offsets` has D+1 entries, document d is `tokens_T[offsets[d]:offsets[d+1]]`."""
    if len(offsets) != len(doc_ids_D) + 1 or offsets[0] != 0 or offsets[-1] != len(tokens_T):
        raise ValueError("offsets must have one entry more than there are documents and span all tokens")
    input_ids = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(tokens_T))
    batch = pa.record_batch(
        {
            "input_ids": input_ids,
            "doc_id": pa.array(doc_ids_D, pa.int64()),
            "source": pa.array(sources_D, pa.string()).dictionary_encode(),
        }
    )
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


class TokenShard:
    """A shard's arrays, as views on the mapped file (or on one read of a remote one)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        if storage.is_local(uri):
            self._source: Any = pa.memory_map(str(storage.local_path(uri)))
        else:
            self._source = pa.BufferReader(storage.read_bytes(uri))
        try:
            batch = pa.ipc.open_file(self._source).get_batch(0)
            lists = batch.column("input_ids")
            self.tokens_T: npt.NDArray[Any] = lists.values.to_numpy(zero_copy_only=True)
            self.offsets: npt.NDArray[np.int64] = lists.offsets.to_numpy(zero_copy_only=True)
            self.doc_ids_D: npt.NDArray[np.int64] = batch.column("doc_id").to_numpy(zero_copy_only=True)
            self.sources_D = batch.column("source")
        except (pa.ArrowInvalid, KeyError, AttributeError) as error:
            raise CorruptArtifact(f"{uri} is not a token shard: {error}") from error

    def __len__(self) -> int:
        return len(self.doc_ids_D)

    def part(self, first: int, count: int) -> TokenShard:
        """`count` of the documents from number `first` on, as views."""
        if (first, count) == (0, len(self)):
            return self
        if not 0 <= first <= first + count <= len(self):
            raise CorruptArtifact(f"{self.uri} has {len(self)} documents; its index names {first} to {first + count}")
        part = copy(self)
        start, stop = int(self.offsets[first]), int(self.offsets[first + count])
        part.tokens_T = self.tokens_T[start:stop]
        part.offsets = self.offsets[first : first + count + 1] - start
        part.doc_ids_D = self.doc_ids_D[first : first + count]
        part.sources_D = self.sources_D[first : first + count]
        return part

    def document(self, row: int) -> npt.NDArray[Any]:
        """The token ids of one document."""
        return self.tokens_T[self.offsets[row] : self.offsets[row + 1]]


def write_token_index(directory: str, entries: Sequence[ShardEntry]) -> bytes:
    """Write the index of a tokens artifact; returns its bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(e) for e in entries], schema=_INDEX_SCHEMA), sink)
    content = sink.getvalue().to_pybytes()
    storage.write_bytes(storage.join(directory, INDEX), content)
    return content


def read_token_index(directory: str) -> list[ShardEntry]:
    """The index of a tokens artifact or mixture, in order. The shards' sizes are checked against the store."""
    try:
        rows = storage.read_table(storage.join(directory, INDEX)).to_pylist()
    except FileNotFoundError as error:
        raise InputError(f"{directory} is no tokens artifact: it has no {INDEX}") from error
    entries = [ShardEntry(**row) for row in rows]
    for place, file in dict.fromkeys((shard_directory(directory, entry), entry.file) for entry in entries):
        check_size(place, file)
    return entries


def shard_directory(directory: str, entry: ShardEntry) -> str:
    """Where the shard of an index row lies; `directory` is the index's."""
    return storage.absolute_uri(entry.directory, base=directory) if entry.directory else directory


def open_shards(directory: str, *, heldout: bool) -> list[TokenShard]:
    """The training documents of a tokens artifact or mixture, or its held-out ones: one view per row of the index."""
    entries = [entry for entry in read_token_index(directory) if entry.heldout == heldout]
    uris = [storage.join(shard_directory(directory, entry), entry.name) for entry in entries]
    shards = {uri: TokenShard(uri) for uri in dict.fromkeys(uris)}
    return [shards[uri].part(e.first_document, e.num_documents) for uri, e in zip(uris, entries, strict=True)]
