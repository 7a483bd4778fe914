"""Which documents that share a key are joined: from rows of (key, member) to edges between members.

A bucket, as in locality-sensitive hashing, is the set of documents with the same key: the hash of a band of their
signatures, of their text or of their URL. Edges from its lowest member to each other one are enough: they give the same
connected components as all pairs would, and their number is linear in the bucket's size.

Shape letters: N rows, E edges, W words of a sketch.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from dataprep.signatures.bit_sketch import num_differing

MAX_LEADERS = 8  # members of a bucket that the others are compared with


def bucket_edges(keys_N: npt.NDArray[np.uint64], members_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[E, 2] edges from the lowest member of each bucket to its others, in the order of keys, then members.

    Rows of (key, member) come in any order. A member may have many keys, and a row may be repeated.
    """
    rows = _rows_of_shared_keys(keys_N)
    order = rows[np.lexsort((members_N[rows], keys_N[rows]))]
    keys, members = keys_N[order], members_N[order]
    return _star_edges(keys[1:] != keys[:-1], members)


def checked_edges(
    keys_N: npt.NDArray[np.uint64],
    members_N: npt.NDArray[np.int64],
    sketches_NW: npt.NDArray[np.uint64],
    *,
    most_differing: int,
) -> npt.NDArray[np.int64]:
    """[E, 2] edges between members of a bucket whose sketches differ in at most `most_differing` bits.

    In the order of their indices, each member is compared with the bucket's leaders and joins the first that is like
    it; one that is like none becomes a leader itself, up to `MAX_LEADERS` of them. So documents that share a key by
    chance part into their true groups; joining all to the lowest member would make one group of them, and comparing
    with that member alone would lose the pairs it is no part of.
    """
    rows = _rows_of_shared_keys(keys_N)
    order = rows[np.lexsort((members_N[rows], keys_N[rows]))]
    members = members_N[order]
    edges = _checked_edges(keys_N[order], members, np.ascontiguousarray(sketches_NW[order]), most_differing)
    return edges[edges[:, 0] != edges[:, 1]]


def equal_edges(
    high_N: npt.NDArray[np.uint64], low_N: npt.NDArray[np.uint64], members_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """[E, 2] the same as `bucket_edges`, for keys of 128 bits in two halves."""
    rows = _rows_of_shared_keys(high_N)
    order = rows[np.lexsort((members_N[rows], low_N[rows], high_N[rows]))]
    high, low, members = high_N[order], low_N[order], members_N[order]
    return _star_edges((high[1:] != high[:-1]) | (low[1:] != low[:-1]), members)


def _rows_of_shared_keys(keys_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The rows whose key another row has too.

    Most keys are met once, so that sorting by key and member is left with few rows.
    """
    order = np.argsort(keys_N)
    keys = keys_N[order]
    is_shared = np.zeros(len(keys), bool)
    is_shared[1:] = keys[1:] == keys[:-1]
    is_shared[:-1] |= is_shared[1:]
    return order[is_shared]


def _star_edges(changes: npt.NDArray[np.bool_], members_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`changes[i]` says that sorted row i+1 begins another bucket than row i."""
    if len(members_N) == 0:
        return np.empty((0, 2), np.int64)
    is_first = np.concatenate([[True], changes])
    first_N = members_N[np.maximum.accumulate(np.where(is_first, np.arange(len(members_N)), 0))]
    is_edge = members_N != first_N
    return np.stack([first_N[is_edge], members_N[is_edge]], axis=1)


@numba.njit(cache=True)
def _checked_edges(keys, members, sketches, most_differing):
    edges = np.empty((keys.size, 2), np.int64)
    leaders = np.empty(MAX_LEADERS, np.int64)
    num_edges = num_leaders = 0
    for row in range(keys.size):
        if row == 0 or keys[row] != keys[row - 1]:
            num_leaders = 0
        joined = False
        for k in range(num_leaders):
            if num_differing(sketches[leaders[k]], sketches[row]) <= most_differing:
                edges[num_edges, 0], edges[num_edges, 1] = members[leaders[k]], members[row]
                num_edges += 1
                joined = True
                break
        if not joined and num_leaders < MAX_LEADERS:
            leaders[num_leaders] = row
            num_leaders += 1
    return edges[:num_edges]
