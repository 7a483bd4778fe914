"""From groups of duplicates to the list of rows that go: one table per part.

Shape letters: N documents of all parts, counted through in the order of their `doc_id`s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.documents import REMOVAL_SCHEMA, doc_ids

EXACT, NEAR = "exact_duplicate", "near_duplicate"


@dataclass(frozen=True)
class Removals:
    """Who goes and who stays for it. A document stays where it is its own survivor."""

    survivors_N: npt.NDArray[np.int64]  # the lowest index of a document's group
    exact_survivors_N: npt.NDArray[np.int64]  # the same, by exact equality alone

    @property
    def is_removed(self) -> npt.NDArray[np.bool_]:
        """bool[N]: which documents go."""
        return self.survivors_N != np.arange(len(self.survivors_N))

    @property
    def is_copy(self) -> npt.NDArray[np.bool_]:
        """bool[N]: which documents are copies of an earlier one."""
        return self.exact_survivors_N != np.arange(len(self.exact_survivors_N))

    def counts(self) -> dict[str, int]:
        """How many go, by reason."""
        exact = int(self.is_copy.sum())
        return {EXACT: exact, NEAR: int(self.is_removed.sum()) - exact}

    def group_sizes(self) -> npt.NDArray[np.int64]:
        """Members, survivor included, of each group of two or more."""
        sizes = np.bincount(self.survivors_N, minlength=len(self.survivors_N))
        return sizes[sizes > 1]

    def table(self, first: npt.NDArray[np.int64], shard: int) -> pa.Table:
        """The removed rows of one part, by row; `first` is where each part's documents begin (`first_indices`)."""
        begin, end = first[shard], first[shard + 1]
        rows = np.flatnonzero(self.is_removed[begin:end])
        survivors = self.survivors_N[begin:end][rows]
        survivor_shards = np.searchsorted(first, survivors, side="right") - 1
        reasons = pa.DictionaryArray.from_arrays(
            pa.array(np.where(self.is_copy[begin:end][rows], 0, 1), pa.int8()), pa.array([EXACT, NEAR])
        )
        survivor_ids = doc_ids(survivor_shards, survivors - first[survivor_shards])
        return pa.table({"row": rows, "reason": reasons, "survivor": survivor_ids}, schema=REMOVAL_SCHEMA)
