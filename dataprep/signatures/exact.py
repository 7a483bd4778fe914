"""A 128-bit hash of each document's text: documents with equal hashes are taken for equal.

Two texts count as equal that differ in case and white space alone: the hash is of the text in lower case, with each run
of white space as one space and none at the ends. It is BLAKE2b, so that no page can be made to collide with another. At
10^12 documents the probability of a collision by chance is 10^-15.

Shape letter: D documents.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import numpy.typing as npt

from cluster.contracts.hashing import blake2b_128
from dataprep.text.characters import SPACE, TABLE_SIZE, character_flags, decode, encode, flags_of, lower_characters
from dataprep.text.column import TextColumn
from dataprep.text.numba_pointers import pointer_to

_BATCH_BYTES = 16 << 20  # of text folded at a time


def text_hashes(column: TextColumn) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(high [D], low [D]): the two halves of each document's hash."""
    return blake2b_128(_folded_texts(column))


def _folded_texts(column: TextColumn) -> Iterator[memoryview]:
    """What is hashed of each document, in lower case and so on; the bytes are valid until the next are asked for."""
    first = 0
    while first < len(column):
        limit = column.offsets[first] + _BATCH_BYTES
        last = max(first + 1, int(np.searchsorted(column.offsets, limit, side="right")) - 1)
        offsets = column.offsets[first : last + 1]
        room = 3 * int(offsets[-1] - offsets[0]) // 2 + 2  # lower case turns two bytes into three at the worst
        buffer = np.empty(room, np.uint8)
        ends = _fold(column.data, offsets, character_flags(), lower_characters(), buffer)
        view = buffer.data
        start = 0
        for end in ends.tolist():
            yield view[start:end]
            start = end
        first = last


@numba.njit(cache=True)
def _fold(data_array, offsets, flags_array, lower_array, out_array):
    """Write what is hashed of each document, one after another; returns where each ends."""
    data, flags, lower = pointer_to(data_array), pointer_to(flags_array), pointer_to(lower_array)
    out = pointer_to(out_array)
    ends = np.empty(offsets.size - 1, np.int64)
    n = 0
    for d in range(ends.size):
        begin = n
        i, stop = offsets[d], offsets[d + 1]
        space = False
        while i < stop:
            code, width = decode(data, i, stop)
            i += width
            if flags_of(code, flags) & SPACE:
                space = True
                continue
            if space and n > begin:
                out[n] = 0x20
                n += 1
            space = False
            n = encode(np.int64(lower[code]) if code < TABLE_SIZE else code, out, n)
        ends[d] = n
    return ends
