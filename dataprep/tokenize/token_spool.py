"""The documents of a token shard in a temporary file, until their order is known and they can be written.

The order of a shard is known only when its last document has been encoded, and its format is one record batch. So
tokens are appended to a file as they come. At the end they are copied, document by document, into a second file in the
shard's order; that is mapped and written in chunks. In memory are one batch, and some 40 bytes a document of where it
lies and what it is. The files lie in the temporary directory (`TMPDIR`) without a name, so a process that is killed
leaves none.

Shape letters: D documents of the spool, T tokens.
"""

from __future__ import annotations

import io
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 8 << 20  # held at once while gathering, but for a document that is longer


class TokenSpool:
    """Documents as arrays of token ids, in the order in which they were added."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this lives)
        self._lengths: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]

    @property
    def lengths_D(self) -> npt.NDArray[np.int64]:
        """Tokens of each document."""
        return np.concatenate(self._lengths)

    def add(self, tokens_T: npt.NDArray[Any], lengths_D: npt.NDArray[np.int64]) -> None:
        """Append documents, whose tokens lie one after another in `tokens_T`."""
        self._file.write(np.ascontiguousarray(tokens_T, self._dtype).data.cast("B"))
        self._lengths.append(lengths_D)

    @contextmanager
    def in_order(self, order_D: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[Any], mmap.mmap | None]]:
        """All tokens, the documents in the order `order_D`, as a view on a mapped file; and that mapping.

        There is no mapping where there are no tokens. The view must not be used after the block.
        """
        lengths = self.lengths_D
        if not lengths.sum():
            yield np.empty(0, self._dtype), None
            return
        with tempfile.TemporaryFile() as ordered:
            self._gather(order_D, lengths, cast(BinaryIO, ordered))
            ordered.flush()
            mapping = mmap.mmap(ordered.fileno(), 0, access=mmap.ACCESS_READ)
            yield np.frombuffer(mapping, self._dtype), mapping

    def _gather(self, order_D: npt.NDArray[np.int64], lengths_D: npt.NDArray[np.int64], sink: BinaryIO) -> None:
        self._file.flush()
        mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        tokens_T = np.frombuffer(mapping, self._dtype)
        ends = np.cumsum(lengths_D)
        starts = ends - lengths_D
        num_bytes = 0
        for start, end in zip(starts[order_D].tolist(), ends[order_D].tolist(), strict=True):
            sink.write(tokens_T[start:end].data.cast("B"))
            num_bytes += (end - start) * self._dtype.itemsize
            if num_bytes >= CHUNK_BYTES:
                mapping.madvise(mmap.MADV_DONTNEED)  # out of this process; the page cache may keep them
                num_bytes = 0


class ChunkedSink(io.RawIOBase):
    """A write-only stream that hands what it gets to `sink` in chunks, and frees the memory of `mapping` after each."""

    def __init__(self, sink: BinaryIO, mapping: mmap.mmap | None) -> None:
        self._sink, self._mapping = sink, mapping

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            self._sink.write(view[start : start + CHUNK_BYTES])
            if self._mapping is not None and len(view) > CHUNK_BYTES:
                self._mapping.madvise(mmap.MADV_DONTNEED)
        return len(view)

    def tell(self) -> int:
        return self._sink.tell()
