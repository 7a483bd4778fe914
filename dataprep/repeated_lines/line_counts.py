"""Counts in how many documents each line stands: a table for each part, then the tables of all parts together.

A line counts once for each document, and near copies of a document do not count apart. Else every line of a page that
is in the corpus seven times would be boilerplate, and all copies be emptied before deduplication could keep one.

Documents are taken for copies if they agree in one of 8 bands of 3 MinHashes. At Jaccard similarity s that happens with
probability 1 - (1 - s^3)^8, which is 1.00 at 0.87, 0.99 at 0.76, 0.66 at 0.5 and 0.20 at 0.3. Of a line's documents, in
their order, those count that are no copy of an earlier one that counts: the line's *leaders*. A copy that slips through
becomes a leader too, and all that come after are compared with it. So a large group of copies counts for hardly more
than a small one.

Shape letters: N rows of (line, scope, copies), G different (line, scope), B bands, D documents, L lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.repeated_lines.line_keys import NO_KEY
from dataprep.signatures.minhash import band_hashes, signatures
from dataprep.text.hash_table import find_slot, insert, new_table
from dataprep.text.spans import HashedSpans

CORPUS, SITE = 0, 1  # the scopes of a line: the whole corpus, or one site; its keys in the two differ
NUM_BANDS, BAND_ROWS = 8, 3  # see above
COUNT_SCHEMA = pa.schema(
    [
        ("line", pa.uint64()),  # the line's key, of `dataprep.repeated_lines.line_keys`
        ("scope", pa.uint8()),
        ("copies", pa.list_(pa.uint32(), NUM_BANDS)),  # the `copy_keys` of a document that counts
        ("documents", pa.uint32()),  # summed over the rows of a line: how many documents have it
    ]
)
_COLLAPSE_ROWS = 1 << 21  # how many rows a part gathers at least, before those that add nothing are taken out
REPEATED_SCHEMA = pa.schema([("line", pa.uint64()), ("scope", pa.uint8()), ("documents", pa.uint64())])


@dataclass(frozen=True)
class Thresholds:
    """When a line counts as repeated. `None` turns a scope off."""

    min_documents: int | None  # different documents of the corpus that have it; see above
    min_site_documents: int | None  # different documents of one site that have it
    least_documents: float = 0.0  # and documents, copies included, for the scope of the corpus

    @property
    def most_copies(self) -> int:
        """How many different documents need to be told apart for a line: more change nothing."""
        return max(self.min_documents or 0, self.min_site_documents or 0)


def copy_keys(terms: HashedSpans) -> npt.NDArray[np.uint32]:
    """[D, B] a key for each band of a document; near copies have at least one in common, at the same place."""
    bands_DB = band_hashes(signatures(terms, num_hashes=NUM_BANDS * BAND_ROWS), bands=NUM_BANDS, rows=BAND_ROWS)
    return (bands_DB >> np.uint64(32)).astype(np.uint32)


@dataclass(frozen=True)
class _Rows:
    """Rows of `COUNT_SCHEMA` as arrays; those of a line are in the order of their documents."""

    lines_N: npt.NDArray[np.uint64]
    scopes_N: npt.NDArray[np.uint8]
    copies_NB: npt.NDArray[np.uint32]
    documents_N: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, table: pa.Table) -> _Rows:
        lines, scopes, copies, documents = (table.column(name).combine_chunks() for name in COUNT_SCHEMA.names)
        copies_NB = copies.flatten().to_numpy().reshape(-1, NUM_BANDS)
        return cls(lines.to_numpy(), scopes.to_numpy(), copies_NB, documents.to_numpy())

    @classmethod
    def concatenated(cls, rows: Sequence[_Rows]) -> _Rows:
        return cls(*(np.concatenate([getattr(r, name) for r in rows]) for name in cls.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.lines_N)

    def take(self, chosen: npt.NDArray[Any]) -> _Rows:
        return _Rows(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def by_line(self) -> _Rows:
        """The rows sorted by line and scope. `np.lexsort` is stable, so documents stay in order."""
        return self.take(np.lexsort((self.scopes_N, self.lines_N)))

    def collapsed(self, most_copies: int) -> _Rows:
        """The rows of leaders alone, at most so many for each line; its other documents are added to the first row."""
        if len(self) == 0:
            return self
        rows = self.by_line()
        begins_G = np.flatnonzero(_changes(rows.lines_N, rows.scopes_N))
        leads_N, _ = _leaders_of(rows, begins_G, most_copies)
        documents_N = np.where(leads_N, rows.documents_N, 0).astype(np.uint32)
        documents_N[begins_G] += np.add.reduceat(rows.documents_N - documents_N, begins_G)
        return replace(rows, documents_N=documents_N).take(leads_N)

    def table(self) -> pa.Table:
        copies = pa.FixedSizeListArray.from_arrays(pa.array(self.copies_NB.reshape(-1)), NUM_BANDS)
        return pa.table([self.lines_N, self.scopes_N, copies, self.documents_N], schema=COUNT_SCHEMA)


_NO_ROWS = _Rows.of(COUNT_SCHEMA.empty_table())


class LineCounter:
    """Counts the lines of one part, which it is given some documents at a time.

    It keeps up to `most_copies` leaders of each line. Whenever its rows have doubled it takes out those that add
    nothing, so that what it holds grows with the number of different lines.
    """

    def __init__(self, *, most_copies: int) -> None:
        self._most_copies = most_copies
        self._collapsed = _NO_ROWS
        self._new: list[_Rows] = []
        self._num_new = 0

    def add(
        self,
        keys: Mapping[int, npt.NDArray[np.uint64]],
        documents_L: npt.NDArray[np.int64],
        copies_DB: npt.NDArray[np.uint32],
    ) -> None:
        """Take the next D documents.

        `keys` has, by scope, the key [L] of each of their lines, `documents_L` says which document a line is in, and
        `copies_DB` are their `copy_keys`.
        """
        for scope, keys_L in keys.items():
            order = np.lexsort((documents_L, keys_L))
            lines, documents = keys_L[order], documents_L[order]
            once = _changes(lines, documents) & (lines != NO_KEY)  # a document's own repetitions
            lines, documents = lines[once], documents[once]
            scopes, ones = np.full(len(lines), scope, np.uint8), np.ones(len(lines), np.uint32)
            self._new.append(_Rows(lines, scopes, copies_DB[documents], ones))
            self._num_new += len(lines)
        if self._num_new >= max(_COLLAPSE_ROWS, len(self._collapsed)):
            self._collapse()

    def _collapse(self) -> None:
        rows = _Rows.concatenated([self._collapsed, *self._new])
        self._new, self._num_new = [], 0
        self._collapsed = rows.collapsed(self._most_copies)

    def table(self) -> pa.Table:
        """The counts (`COUNT_SCHEMA`), sorted by line and scope; the rows of a line are in the order of documents."""
        self._collapse()
        return self._collapsed.table()


def repeated(table: pa.Table, thresholds: Thresholds) -> pa.Table:
    """Which of the lines in N rows of `COUNT_SCHEMA` are repeated (`REPEATED_SCHEMA`), sorted by line.

    The rows may come in any order. Where documents are only partly alike, which of them lead depends on that order.
    """
    if table.num_rows == 0:
        return REPEATED_SCHEMA.empty_table()
    rows = _Rows.of(table).by_line()
    begins_G = np.flatnonzero(_changes(rows.lines_N, rows.scopes_N))
    _, different_G = _leaders_of(rows, begins_G, thresholds.most_copies)
    documents_G = np.add.reduceat(rows.documents_N.astype(np.uint64), begins_G)
    scopes_G = rows.scopes_N[begins_G]
    holds_G = np.zeros(len(begins_G), bool)
    if thresholds.min_documents is not None:
        enough_G = (different_G >= thresholds.min_documents) & (documents_G >= thresholds.least_documents)
        holds_G |= (scopes_G == CORPUS) & enough_G
    if thresholds.min_site_documents is not None:
        holds_G |= (scopes_G == SITE) & (different_G >= thresholds.min_site_documents)
    columns = [rows.lines_N[begins_G][holds_G], scopes_G[holds_G], documents_G[holds_G]]
    return pa.table(columns, schema=REPEATED_SCHEMA)


def _leaders_of(
    rows: _Rows, begins_G: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """([N] whether a row is a leader, [G] how many leaders a line has), with at most `most` leaders for each line."""
    bounds = np.append(begins_G, len(rows))
    most = min(most, int(np.diff(bounds).max()))
    return _leaders(bounds, rows.copies_NB, most, *new_table(most * rows.copies_NB.shape[1]))


@numba.njit(cache=True)
def _leaders(bounds, copies_NB, most, keys, stamps):
    mask = np.uint64(keys.size - 1)
    leads_N, counts_G = np.zeros(copies_NB.shape[0], np.bool_), np.zeros(bounds.size - 1, np.int64)
    for group in range(bounds.size - 1):
        stamp = group + 1
        for row in range(bounds[group], bounds[group + 1]):
            if counts_G[group] == most:
                break
            leads = True
            for band in range(copies_NB.shape[1]):
                key = np.uint64(band) << np.uint64(32) | np.uint64(copies_NB[row, band])
                leads = leads and stamps[find_slot(keys, stamps, mask, key, stamp)] != stamp
            if leads:
                leads_N[row] = True
                counts_G[group] += 1
                for band in range(copies_NB.shape[1]):
                    insert(
                        keys, stamps, mask, np.uint64(band) << np.uint64(32) | np.uint64(copies_NB[row, band]), stamp
                    )
    return leads_N, counts_G


def _changes(*columns: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """[N] whether a row differs in any column from the row before it; the first does."""
    changes = np.ones(len(columns[0]), bool)
    if len(changes):
        changes[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return changes


def key_ranges(num_rows: int, *, rows_per_range: int) -> Sequence[tuple[int, int]]:
    """(first, last) key of ranges that hold about `rows_per_range` of all rows each, since keys are spread evenly."""
    count = max(1, -(-num_rows // rows_per_range))
    bounds = [(1 << 64) * k // count for k in range(count + 1)]
    return [(first, last - 1) for first, last in pairwise(bounds)]
