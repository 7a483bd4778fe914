"""A shuffle by way of the store: rows with equal keys are brought together, and no process holds them all.

The keys are divided into ranges. Each writer makes one file of its rows, with one record batch for each of a row's keys
and each range: a *cell*. The reader of a cell reads that batch of every writer's file; on a local disk it is mapped.
Writers and readers are tasks that commit, so a stage that is killed loses only what was under way. What a cell holds
depends neither on how the rows were divided among writers nor on how many tasks run.

Rows of one key are never parted. A page that is in the corpus ten million times makes one task of ten million rows,
whatever memory the task was meant to have.

Shape letters: N rows, K keys of a row, W words that are carried along, R ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.contracts import storage
from cluster.contracts.retry import retrying_as_here

ROW_BYTES = 32  # of a task on a cell: key, member and two arrays to sort by; 8 more for each word
_READER_THREADS = 16  # of remote files


@dataclass(frozen=True)
class KeyedRows:
    """Documents with the keys that bring them together, and the words that they are then compared by."""

    keys_NK: npt.NDArray[np.uint64]
    members_N: npt.NDArray[np.int64]  # document indices
    words_NW: npt.NDArray[np.uint64]

    @classmethod
    def concatenated(cls, rows: Sequence[KeyedRows]) -> KeyedRows:
        """The rows of all, one after another."""
        return cls(
            np.concatenate([r.keys_NK for r in rows]),
            np.concatenate([r.members_N for r in rows]),
            np.concatenate([r.words_NW for r in rows]),
        )


def even_ranges(num_ranges: int) -> npt.NDArray[np.uint64]:
    """[R] the first key of each of so many equal ranges of all 64-bit keys, for keys that are hashes."""
    return np.array([number * 2**64 // num_ranges for number in range(num_ranges)], np.uint64)


def num_ranges_for(num_rows: int, *, num_words: int, memory_bytes: float) -> int:
    """How many ranges of keys make a task on one of them keep to `memory_bytes`.

    That holds for keys that are spread evenly; the rows of a frequent one stay together.
    """
    return max(1, -(-num_rows * (ROW_BYTES + 8 * num_words) // max(1, int(memory_bytes))))


def write_cells(sink: BinaryIO, rows: KeyedRows, first_keys_R: npt.NDArray[np.uint64]) -> None:
    """Write an Arrow IPC file whose record batch k * R + r is the cell of key k and range r."""
    names = ["key", "member", *(f"word{number}" for number in range(rows.words_NW.shape[1]))]
    types = [pa.uint64(), pa.int64(), *[pa.uint64()] * rows.words_NW.shape[1]]
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pa.ipc.new_file(sink, schema) as writer:
        for k in range(rows.keys_NK.shape[1]):
            keys_N = rows.keys_NK[:, k]
            for chosen in _rows_by_range(keys_N, first_keys_R):
                columns = [keys_N[chosen], rows.members_N[chosen], *rows.words_NW[chosen].T]
                writer.write_batch(pa.record_batch([pa.array(np.ascontiguousarray(c)) for c in columns], schema=schema))


def read_cell(uris: Sequence[str], cell: int) -> KeyedRows:
    """The rows of a cell in all files, in the order of the files. A row has one key there, the cell's (K = 1)."""

    def read(uri: str) -> pa.RecordBatch:
        filesystem, path = storage.locate(uri)
        with pa.memory_map(path) if storage.is_local(uri) else filesystem.open_input_file(path) as source:
            return pa.ipc.open_file(source).get_batch(cell)

    if all(storage.is_local(uri) for uri in uris):
        batches = [read(uri) for uri in uris]
    else:
        with ThreadPoolExecutor(_READER_THREADS) as pool:
            batches = list(pool.map(retrying_as_here(read), uris))
    found = pa.Table.from_batches(batches)
    words = [found.column(name).to_numpy() for name in found.column_names[2:]]
    num_rows = found.num_rows
    return KeyedRows(
        found.column("key").to_numpy().reshape(num_rows, 1),
        found.column("member").to_numpy(),
        np.stack(words, axis=1) if words else np.empty((num_rows, 0), np.uint64),
    )


def _rows_by_range(
    keys_N: npt.NDArray[np.uint64], first_keys_R: npt.NDArray[np.uint64]
) -> Iterator[slice | npt.NDArray[np.int64]]:
    num_ranges = len(first_keys_R)
    if num_ranges == 1:
        yield slice(None)
        return
    ranges_N = np.searchsorted(first_keys_R, keys_N, side="right") - 1
    order_N = np.argsort(ranges_N.astype(np.uint16) if num_ranges < 1 << 16 else ranges_N, kind="stable")
    ends_R = np.cumsum(np.bincount(ranges_N, minlength=num_ranges))
    yield from np.split(order_N, ends_R[:-1])
