"""From keyed documents to the edges between those that share a key: the pure middle of deduplication.

A bucket is the set of documents with the same key (a band of their MinHash signatures, or their exact hash). One
edge from its lowest member to each other one is enough: the same components as all pairs, and linear in its size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def bucket_edges(keys_N: npt.NDArray[np.uint64], members_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Edges [E, 2] from the lowest member of each bucket to its others, in the order of keys, then members.

    N rows of (key, member) in any order; a member may have many keys, and a row may be repeated.
    """
    order = np.lexsort((members_N, keys_N))
    keys, members = keys_N[order], members_N[order]
    return _star_edges(keys[1:] != keys[:-1], members)


def equal_edges(
    high_N: npt.NDArray[np.uint64], low_N: npt.NDArray[np.uint64], members_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """`bucket_edges` for 128-bit keys in two halves."""
    order = np.lexsort((members_N, low_N, high_N))
    high, low, members = high_N[order], low_N[order], members_N[order]
    return _star_edges((high[1:] != high[:-1]) | (low[1:] != low[:-1]), members)


def _star_edges(changes: npt.NDArray[np.bool_], members_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`changes[i]` says that sorted row i+1 begins another bucket than row i."""
    if len(members_N) == 0:
        return np.empty((0, 2), np.int64)
    is_first = np.concatenate([[True], changes])
    first_N = members_N[np.maximum.accumulate(np.where(is_first, np.arange(len(members_N)), 0))]
    is_edge = members_N != first_N
    return np.stack([first_N[is_edge], members_N[is_edge]], axis=1)
