"""From groups of duplicates to removals: which document of a group survives, and which go for what reason.

The removals of a part are a table of its rows (`REMOVAL_SCHEMA`); documents are never rewritten.

Shape letters: N documents of all corpora, by document index (`dataprep.dedupe.corpora`); M of them are in groups of two
or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.dedupe.corpora import Corpora, ShardSlice
from dataprep.documents import REMOVAL_SCHEMA

EXACT, URL, NEAR = "exact_duplicate", "url_duplicate", "near_duplicate"


@dataclass(frozen=True)
class Removals:
    """The survivor of each document. One that is its own survivor stays, and so does every one of an earlier corpus."""

    corpora: Corpora
    labels: Mapping[str, npt.NDArray[Any]]  # reason -> [N] lowest of the group by that rule and those before it
    survivors_N: npt.NDArray[Any]  # document index of each document's survivor

    def reasons(self, begin: int, end: int) -> npt.NDArray[np.int8]:
        """Of documents `begin` to `end` - 1, which of `labels` first joins each to its survivor; -1: it stays."""
        survivors = self.survivors_N[begin:end]
        found = np.full(end - begin, -1, np.int8)
        for number, labels_N in enumerate(self.labels.values()):
            joined = (labels_N[begin:end] == labels_N[survivors]) & (survivors != np.arange(begin, end))
            found[joined & (found < 0)] = number
        return found

    def table(self, shard_slice: ShardSlice) -> pa.Table:
        """The removed rows of one part, in order (`REMOVAL_SCHEMA`)."""
        begin, end = shard_slice.first, shard_slice.first + shard_slice.shard.num_documents
        reasons = self.reasons(begin, end)
        rows = np.flatnonzero(reasons >= 0)
        corpus, survivor_ids = self.corpora.names(self.survivors_N[begin:end][rows].astype(np.int64))
        names = pa.DictionaryArray.from_arrays(pa.array(reasons[rows], pa.int8()), pa.array(list(self.labels)))
        return pa.table(
            {"row": rows, "reason": names, "survivor": survivor_ids, "corpus": corpus}, schema=REMOVAL_SCHEMA
        )

    def members(self, begin: int, end: int, stays_N: npt.NDArray[np.bool_]) -> pa.Table:
        """The documents from `begin` to `end` - 1 that are in groups: (member, cluster, reason).

        A cluster is called by its survivor's index; `stays_N` says which documents survive others.
        """
        survivors = self.survivors_N[begin:end].astype(np.int64)
        rows = np.flatnonzero((survivors != np.arange(begin, end)) | stays_N[begin:end])
        return pa.table({"member": begin + rows, "cluster": survivors[rows], "reason": self.reasons(begin, end)[rows]})


def best_survivors(
    labels_N: npt.NDArray[Any], members_M: npt.NDArray[np.int64], scores_M: npt.NDArray[np.float64], *, own_first: int
) -> npt.NDArray[Any]:
    """[N] the survivor of each document's group: its member of the highest score, of equals the lowest index.

    Members of earlier corpora, those below `own_first`, come before all others. `members_M` are the documents in groups
    of two or more, with their scores; NaN counts as the lowest.
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
