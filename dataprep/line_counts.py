"""In how many documents a line stands: tables of a part's lines, and those of all parts brought together.

A line counts once for each document, and near copies of a document are not counted on their own: else every line of a
page that is there seven times would be boilerplate, and all copies would be emptied before deduplication could keep
one. What tells copies is one MinHash, `copy`: two documents of Jaccard similarity s share it with probability s.

Shape letters: N rows of (line, scope, copy), G different (line, scope).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.line_keys import NO_KEY

CORPUS, SITE = 0, 1  # scopes: a line anywhere, and a line of one site; their keys differ
COUNT_SCHEMA = pa.schema(
    [
        ("line", pa.uint64()),  # a key; see `dataprep.line_keys`
        ("scope", pa.uint8()),
        ("copy", pa.uint32()),
        ("documents", pa.uint32()),
    ]
)
REPEATED_SCHEMA = pa.schema([("line", pa.uint64()), ("scope", pa.uint8()), ("documents", pa.uint64())])


@dataclass(frozen=True)
class Thresholds:
    """When a line is repeated: `None` turns a scope off."""

    min_documents: int | None  # different documents with it; see above
    min_site_documents: int | None  # different documents of one site
    least_documents: float = 0.0  # and documents of any kind, for a line of the corpus

    @property
    def most_copies(self) -> int:
        """How many different documents of a part need to be told apart for a line."""
        return max(self.min_documents or 0, self.min_site_documents or 0)


class LineCounter:
    """Gathers the lines of one part, some documents at a time, and counts them."""

    def __init__(self) -> None:
        self._lines: list[npt.NDArray[np.uint64]] = []
        self._scopes: list[npt.NDArray[np.uint8]] = []
        self._copies: list[npt.NDArray[np.uint32]] = []
        self._documents: list[npt.NDArray[np.int64]] = []
        self._num_documents = 0

    def add(
        self,
        keys: Mapping[int, npt.NDArray[np.uint64]],
        documents_L: npt.NDArray[np.int64],
        copies_D: npt.NDArray[np.uint32],
    ) -> None:
        """The next D documents: by scope, the keys [L] of their lines; which document each line is in; their copies."""
        for scope, keys_L in keys.items():
            has_key = keys_L != NO_KEY
            documents = documents_L[has_key]
            self._lines.append(keys_L[has_key])
            self._scopes.append(np.full(len(documents), scope, np.uint8))
            self._copies.append(copies_D[documents])
            self._documents.append(documents + self._num_documents)
        self._num_documents += len(copies_D)

    def table(self, *, most_copies: int) -> pa.Table:
        """`COUNT_SCHEMA`, sorted by it. Of a line's copies beyond `most_copies` only the documents are counted."""
        if not self._lines:
            return COUNT_SCHEMA.empty_table()
        lines, scopes, copies = (
            np.concatenate(self._lines),
            np.concatenate(self._scopes),
            np.concatenate(self._copies),
        )
        documents = np.concatenate(self._documents)
        order = np.lexsort((documents, copies, scopes, lines))
        lines, scopes, copies, documents = lines[order], scopes[order], copies[order], documents[order]
        once = _changes(lines, scopes, copies, documents)  # a document's own repetitions
        lines, scopes, copies = lines[once], scopes[once], copies[once]
        of_line, of_copy = _changes(lines, scopes), _changes(lines, scopes, copies)
        numbers = np.cumsum(of_copy)
        ranks = numbers - numbers[of_line][np.cumsum(of_line) - 1]  # of a row's copy among its line's
        begins = np.flatnonzero(of_copy & (ranks < most_copies))
        counts = np.diff(np.append(begins, len(lines))).astype(np.uint32)
        return pa.table([lines[begins], scopes[begins], copies[begins], counts], schema=COUNT_SCHEMA)


def repeated(rows: pa.Table, thresholds: Thresholds) -> pa.Table:
    """`REPEATED_SCHEMA`, sorted by line: which of the lines in N rows of `COUNT_SCHEMA`, in any order, are repeated."""
    if rows.num_rows == 0:
        return REPEATED_SCHEMA.empty_table()
    lines, scopes, copies, documents = (rows.column(name).to_numpy() for name in COUNT_SCHEMA.names)
    order = np.lexsort((copies, scopes, lines))
    lines, scopes, copies, documents = lines[order], scopes[order], copies[order], documents[order]
    begins_G = np.flatnonzero(_changes(lines, scopes))
    different_G = np.add.reduceat(_changes(lines, scopes, copies).astype(np.int64), begins_G)
    documents_G = np.add.reduceat(documents.astype(np.uint64), begins_G)
    scopes_G = scopes[begins_G]
    holds_G = np.zeros(len(begins_G), bool)
    if thresholds.min_documents is not None:
        enough_G = (different_G >= thresholds.min_documents) & (documents_G >= thresholds.least_documents)
        holds_G |= (scopes_G == CORPUS) & enough_G
    if thresholds.min_site_documents is not None:
        holds_G |= (scopes_G == SITE) & (different_G >= thresholds.min_site_documents)
    return pa.table([lines[begins_G][holds_G], scopes_G[holds_G], documents_G[holds_G]], schema=REPEATED_SCHEMA)


def _changes(*columns: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """[N] whether a row differs from the one before it in any column."""
    changes = np.ones(len(columns[0]), bool)
    if len(changes):
        changes[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return changes


def key_ranges(num_rows: int, *, rows_per_range: int) -> Sequence[tuple[int, int]]:
    """[first, last] keys of ranges that each hold about so many of `num_rows` rows, keys being evenly spread."""
    count = max(1, -(-num_rows // rows_per_range))
    bounds = [(1 << 64) * k // count for k in range(count + 1)]
    return [(first, last - 1) for first, last in pairwise(bounds)]
