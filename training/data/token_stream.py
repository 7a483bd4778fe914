"""The documents of a token store as one stream of tokens, of which any part can be read while little is held in memory.

The index says how many tokens each of its rows has, so opening a store costs reading its index, whatever the shards
weigh. A row's shard is mapped when it is first read. The shards read longest ago are let go, and pages that were read
are given back, so a process holds a bounded part of a store of any size.

Shape letters: R rows of the index, D documents.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.tokens import ShardEntry, TokenShard, shard_uris

_MOST_ROWS = 4096  # held open at a time; each may hold a mapping, which is a file descriptor
# Pages are given back once about so much was touched. The kernel maps up to 64 KiB around a page it has at hand.
_RELEASE_BYTES = 48 << 20
_TOUCHED_BYTES = 64 << 10


class DocumentRange(Protocol):
    """Consecutive documents of a shard: what `TokenShard` is."""

    @property
    def tokens_T(self) -> npt.NDArray[Any]: ...

    @property
    def stored_offsets(self) -> npt.NDArray[np.int64]:
        """D+1, of the documents, counted from anywhere."""

    def will_need(self, first_token: int, count: int) -> None: ...

    def release_memory(self) -> None: ...


@dataclass(frozen=True)
class ArrayDocuments:
    """Documents that are in memory anyway."""

    tokens_T: npt.NDArray[Any]
    stored_offsets: npt.NDArray[np.int64]

    def will_need(self, first_token: int, count: int) -> None:
        pass

    def release_memory(self) -> None:
        pass


class TokenStream:
    """R ranges of documents end to end. `open_row` gives a range by number; it has `lengths_R[number]` tokens.

    Positions count the tokens of the whole stream. One thread reads it.
    """

    def __init__(self, lengths_R: Sequence[int], open_row: Callable[[int], DocumentRange]) -> None:
        self._ends_R = np.cumsum(lengths_R, dtype=np.int64)
        self.num_tokens = int(self._ends_R[-1]) if len(lengths_R) else 0
        self._lengths_R = np.asarray(lengths_R, np.int64)
        self._open_row = open_row
        self._rows: OrderedDict[int, DocumentRange] = OrderedDict()
        self._most_rows = max(16, min(_MOST_ROWS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._touched = 0  # bytes, about, since pages were given back

    @classmethod
    def of_arrays(
        cls, shards: Sequence[npt.NDArray[Any]], offsets: Sequence[npt.NDArray[np.int64]] | None = None
    ) -> TokenStream:
        """Tokens in memory. Without `offsets` (D+1 of each array), an array is one document."""
        if offsets is None:
            offsets = [np.array([0, len(shard)], np.int64) for shard in shards]
        rows: list[DocumentRange] = [ArrayDocuments(*pair) for pair in zip(shards, offsets, strict=True)]
        return cls([len(shard) for shard in shards], lambda row: rows[row])

    def read(self, start: int, count: int) -> npt.NDArray[Any]:
        """The `count` tokens from position `start` on, fewer at the stream's end; a view where one row has them all."""
        pieces = [self._row(row).tokens_T[first : first + length] for row, first, length in self._ranges(start, count)]
        self._count_touched(len(pieces), sum(piece.nbytes for piece in pieces))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def documents(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(begins_D, lengths_D) of the documents, empty ones apart, that begin at a position in [start, stop)."""
        begins, lengths = [], []
        for row, first, length in self._ranges(start, stop - start):
            offsets = self._row(row).stored_offsets
            base = int(offsets[0])
            low, high = offsets.searchsorted((base + first, base + first + length))
            found = offsets[low : high + 1]
            sizes = found[1:] - found[:-1]
            starts = found[:-1] + (int(self._ends_R[row] - self._lengths_R[row]) - base)
            if not sizes.all():
                starts, sizes = starts[sizes > 0], sizes[sizes > 0]
            begins.append(starts)
            lengths.append(sizes)
            self._count_touched(4, found.nbytes)  # a search steps over a few places
        if len(begins) == 1:
            return begins[0], lengths[0]
        if not begins:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(begins), np.concatenate(lengths)

    def will_need(self, start: int, count: int) -> None:
        """Have these tokens read from disk in the background."""
        for row, first, length in self._ranges(start, count):
            self._row(row).will_need(first, length)

    def _ranges(self, start: int, count: int) -> list[tuple[int, int, int]]:
        """(row, first token in it, how many) of each row that has some of these tokens."""
        found = []
        stop = min(start + count, self.num_tokens)
        row = int(self._ends_R.searchsorted(start, side="right"))
        while start < stop:
            end = int(self._ends_R[row])
            length = min(stop, end) - start
            if length:
                found.append((row, start - end + int(self._lengths_R[row]), length))
            start, row = start + length, row + 1
        return found

    def _row(self, number: int) -> DocumentRange:
        row = self._rows.get(number)
        if row is not None:
            self._rows.move_to_end(number)
            return row
        row = self._open_row(number)
        if len(row.tokens_T) != self._lengths_R[number]:
            raise CorruptArtifact(
                f"{getattr(row, 'uri', 'a shard')} has {len(row.tokens_T)} tokens where its index says "
                f"{self._lengths_R[number]}; make the tokens again"
            )
        self._rows[number] = row
        if len(self._rows) > self._most_rows:
            self._rows.popitem(last=False)
        self._count_touched(4, 0)
        return row

    def _count_touched(self, places: int, num_bytes: int) -> None:
        self._touched += places * _TOUCHED_BYTES + num_bytes
        if self._touched >= _RELEASE_BYTES:
            self._touched = 0
            for row in self._rows.values():
                row.release_memory()


class StoredTokens(TokenStream):
    """The documents of these rows of the index in `directory`.

    `random_reads` says that samples will be read in no order, so that the kernel's read-ahead would be wasted.
    `localise` gives the place to read a shard from; a shard cache gives its local copy.
    """

    def __init__(
        self,
        directory: str,
        entries: Sequence[ShardEntry],
        *,
        random_reads: bool,
        localise: Callable[[str, ShardEntry], str] = lambda uri, entry: uri,
    ) -> None:
        self._entries, self._uris = entries, shard_uris(directory, entries)
        self._random_reads, self._localise = random_reads, localise
        self._shards: WeakValueDictionary[str, TokenShard] = WeakValueDictionary()
        super().__init__([entry.num_tokens for entry in entries], self._open)

    def shards(self, spans: Iterable[tuple[int, int]]) -> dict[str, ShardEntry]:
        """The shards that hold the positions [start, stop) of these spans: URI -> a row of the index, in order."""
        rows = [row for start, stop in spans for row, _, _ in self._ranges(start, stop - start)]
        return {self._uris[row]: self._entries[row] for row in rows}

    def _open(self, number: int) -> DocumentRange:
        entry, uri = self._entries[number], self._uris[number]
        shard = self._shards.get(uri)
        if shard is None:
            shard = TokenShard(self._localise(uri, entry), size=entry.size)
            if self._random_reads:
                shard.expect_random_reads()
            self._shards[uri] = shard
        return shard.part(entry.first_document, entry.num_documents)
