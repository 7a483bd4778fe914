"""Text to terms, which duplicates, overlaps and repeated lines are matched on, as positions and 64-bit hashes.

A term is a run of letters, marks and numbers, in lower case and without accents; a number, with the dots and commas
inside it, is a single "0". In scripts without spaces each letter with its marks is a term, as it is a word (rule 6 of
`dataprep.text.words`). So neither case, accents, digits nor punctuation keep two copies of a text apart.

Shape letter: D documents.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from dataprep.text.characters import (
    DIGIT,
    MARK,
    TABLE_SIZE,
    TERM,
    UNSPACED,
    character_flags,
    decode,
    flags_of,
    folded_characters,
)
from dataprep.text.hashing import FNV_OFFSET, FNV_PRIME, mix
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import HashedSpans, filled

_DOT, _COMMA = 0x2E, 0x2C


def split_terms(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> HashedSpans:
    """The terms of D documents, with hashes of their folded form (lower case, without accents, numbers as "0")."""
    tables = (character_flags(), folded_characters())
    return HashedSpans(*filled(_fill_terms, data, offsets, tables, (np.int64, np.int64, np.uint64), bytes_per_span=5))


@numba.njit(cache=True)
def _fill_terms(
    data_array, offsets, flags_array, folded_array, doc_offsets, starts, ends, hashes, document, position, n
):
    data, flags, folded = pointer_to(data_array), pointer_to(flags_array), pointer_to(folded_array)
    i = position
    for d in range(document, offsets.size - 1):
        stop = offsets[d + 1]
        while i < stop:
            code, width = decode(data, i, stop)
            char_flags = flags_of(code, flags)
            if char_flags & TERM == 0:
                i += width
                continue
            if n == starts.size:
                return d, i, n, 1
            start = i
            h = FNV_OFFSET
            unspaced = char_flags & UNSPACED
            while True:
                if char_flags & DIGIT:
                    i = _end_of_number(data, i, stop, flags)
                    h = (h ^ np.uint64(0x30)) * FNV_PRIME
                else:
                    base = np.uint64(folded[code]) if code < TABLE_SIZE else np.uint64(code)
                    if base:
                        h = (h ^ base) * FNV_PRIME
                    i += width
                if i >= stop:
                    break
                code, width = decode(data, i, stop)
                char_flags = flags_of(code, flags)
                if char_flags & TERM == 0 or char_flags & UNSPACED or (unspaced and char_flags & MARK == 0):
                    break
            if h != FNV_OFFSET:  # not marks alone
                starts[n], ends[n], hashes[n] = start, i, mix(h)
                n += 1
        doc_offsets[d + 1] = n
    return offsets.size - 1, i, n, 0


@numba.njit(cache=True)
def _end_of_number(data, i, stop, flags):
    """One past the number at byte `i`: digits, which single dots and commas may join."""
    while i < stop:
        code, width = decode(data, i, stop)
        if flags_of(code, flags) & DIGIT:
            i += width
        elif (code == _DOT or code == _COMMA) and i + 1 < stop:
            if flags_of(decode(data, i + 1, stop)[0], flags) & DIGIT == 0:
                return i
            i += 1
        else:
            return i
    return i
