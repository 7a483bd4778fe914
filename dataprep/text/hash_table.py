"""Open-addressed hash tables in arrays, for compiled loops that need an empty table for each document.

A table is two arrays of one size, `keys` (uint64) and `stamps` (int64). A slot is in use if its stamp is the current
one, so to empty the table is to go on to the next stamp. Probing is linear. Sizes are powers of two, and a table is at
most half full.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


def new_table(count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """(keys, stamps) of a table with room for `count` keys at a time; no stamp from 1 on is in use."""
    size = int(table_mask(max(count, 1))) + 1
    return np.empty(size, np.uint64), np.zeros(size, np.int64)


@numba.njit(cache=True)
def table_mask(count):
    """The mask (size - 1) of a table that holds `count` keys."""
    size = 16
    while size < 2 * count:
        size *= 2
    return np.uint64(size - 1)


@numba.njit(cache=True)
def find_slot(keys, stamps, mask, key, stamp):
    """The slot of `key`, or the free slot that it would go to, which has another stamp."""
    slot = key & mask
    while stamps[slot] == stamp and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True)
def insert(keys, stamps, mask, key, stamp):
    """Put `key` into the table; returns whether it is new."""
    slot = find_slot(keys, stamps, mask, key, stamp)
    if stamps[slot] == stamp:
        return False
    keys[slot], stamps[slot] = key, stamp
    return True
