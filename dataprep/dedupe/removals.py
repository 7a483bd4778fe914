"""From groups of duplicates to who stays, why the others go, and the list of rows that go: one table per part.

Shape letters: N documents of all corpora, counted through (`dataprep.dedupe.corpora`); M of them are in groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.dedupe.corpora import Corpora, Piece
from dataprep.documents import REMOVAL_SCHEMA

EXACT, URL, NEAR = "exact_duplicate", "url_duplicate", "near_duplicate"


@dataclass(frozen=True)
class Removals:
    """Who goes and who stays for it. A document stays where it is its own survivor, or of an earlier corpus."""

    corpora: Corpora
    labels: Mapping[str, npt.NDArray[Any]]  # reason -> [N] lowest of the group, after that and all earlier searches
    survivors_N: npt.NDArray[Any]

    def reasons(self, begin: int, end: int) -> npt.NDArray[np.int8]:
        """Of documents `begin` to `end` - 1: the first of `labels` that joins each to its survivor, -1 for those."""
        survivors = self.survivors_N[begin:end]
        found = np.full(end - begin, -1, np.int8)
        for number, labels_N in enumerate(self.labels.values()):
            joined = (labels_N[begin:end] == labels_N[survivors]) & (survivors != np.arange(begin, end))
            found[joined & (found < 0)] = number
        return found

    def table(self, piece: Piece) -> pa.Table:
        """The removed rows of one part, by row."""
        begin, end = piece.first, piece.first + piece.shard.num_documents
        reasons = self.reasons(begin, end)
        rows = np.flatnonzero(reasons >= 0)
        corpus, survivor_ids = self.corpora.names(self.survivors_N[begin:end][rows].astype(np.int64))
        names = pa.DictionaryArray.from_arrays(pa.array(reasons[rows], pa.int8()), pa.array(list(self.labels)))
        return pa.table(
            {"row": rows, "reason": names, "survivor": survivor_ids, "corpus": corpus}, schema=REMOVAL_SCHEMA
        )

    def members(self, begin: int, end: int, stays_N: npt.NDArray[np.bool_]) -> pa.Table:
        """(member, cluster, reason) of documents `begin` to `end` - 1 in groups; a cluster is its survivor's index."""
        survivors = self.survivors_N[begin:end].astype(np.int64)
        rows = np.flatnonzero((survivors != np.arange(begin, end)) | stays_N[begin:end])
        return pa.table({"member": begin + rows, "cluster": survivors[rows], "reason": self.reasons(begin, end)[rows]})


def best_survivors(
    labels_N: npt.NDArray[Any], members_M: npt.NDArray[np.int64], scores_M: npt.NDArray[np.float64], *, own_first: int
) -> npt.NDArray[Any]:
    """[N] each group's member of the highest score, the lowest of equals; earlier corpora's before all.

    `members_M` are the documents of groups of two or more, with their scores; NaN counts as the lowest.
    """
    scores = np.where(np.isnan(scores_M), -np.inf, scores_M)
    roots = labels_N[members_M].astype(np.int64)
    order = np.lexsort((members_M, -scores, members_M >= own_first, roots))
    first = np.concatenate([[True], np.diff(roots[order]) != 0]) if len(order) else np.zeros(0, bool)
    best = np.arange(len(labels_N), dtype=labels_N.dtype)
    best[roots[order][first]] = members_M[order][first]
    return best[labels_N]


def grouped(labels_N: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The documents that are in groups of two or more, in order."""
    is_member = labels_N != np.arange(len(labels_N), dtype=labels_N.dtype)
    is_member[labels_N[is_member]] = True
    return np.flatnonzero(is_member)
