"""Text to words, which filters count, as positions in the UTF-8 buffer and 64-bit hashes: no word is a Python object.

Punctuation counts as words, since the published thresholds of Gopher and FineWeb were set on spaCy's English tokens.
The rules are near to spaCy's:

1. White space (`str.isspace`) separates; every other character belongs to exactly one word.
2. Punctuation and pictographs at either end of a spaced word (what stands between white space) are words of their own,
   one character each; so is a run of two or more dots. `- / \\ @ . %` and dashes stay inside; leading `= % + $` (`+`
   unless a digit follows), trailing `%` and currency after a digit and trailing `+` after a digit are split off.
3. A final dot is split off after a lower-case letter, a digit, punctuation or two capitals, but not from an
   initialism (single letters and dots: "e.g.", "U.S.") nor from the abbreviations listed in `dataprep.text.word_rules`.
4. "'s" is split off, and so are "n't", "'ll", "'ve", "'re", "'d", "'m"; "cannot" is two words.
5. Inside what is left, these split where letters stand on both sides: hyphens, `,`, `: < > = /` (but for the comma, a
   digit may stand on the left), `.` between a lower- and an upper-case letter; `+ - * ^` between digits; pictographs
   and runs of dots always. Addresses ("example.org/a-b", "me@example.org") are left whole.
6. In scripts without spaces (Han, kana, Thai, Lao, Khmer, Myanmar, Tibetan) each letter with its marks is a word,
   whatever stands around it, and so is each punctuation character beside them. Filters exempt such words where a
   rule is about word length or stop words.

Duplicates are matched on something else, terms (`dataprep.text.match_terms`).

Shape letters: D documents, W words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from dataprep.text.characters import (
    ALPHA,
    DIGIT,
    LOWER,
    MARK,
    PUNCTUATION,
    SENTENCE_END,
    SPACE,
    SYMBOL,
    TERM,
    UNSPACED,
    UPPER,
    character_flags,
    decode,
    flags_of,
)
from dataprep.text.hashing import FNV_OFFSET, FNV_PRIME, mix
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import HashedSpans, filled
from dataprep.text.word_rules import ABBREVIATION_HASHES, is_cannot, split_spaced_word

# What a word is made of: bits of `Words.kinds`.
HAS_ALPHA = 1  # at least one letter
IS_SYMBOL = 2  # nothing but punctuation, symbols and control characters
IS_PUNCTUATION = 4  # nothing but punctuation (Unicode P*)
ENDS_SENTENCE = 8  # a single sentence-ending character
IS_UNSPACED = 16  # a letter of a script without spaces
_PLAIN = ALPHA | LOWER | UPPER | DIGIT | TERM | MARK


@dataclass(frozen=True)
class Words(HashedSpans):
    """The words of each document, with hashes of their exact bytes."""

    num_chars: npt.NDArray[np.int32]  # [W] length in code points
    kinds: npt.NDArray[np.uint8]  # [W] HAS_ALPHA and the other bits above


def split_words(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Words:
    """The words of D documents; document d is the UTF-8 text `data[offsets[d]:offsets[d+1]]`."""
    tables = (character_flags(), ABBREVIATION_HASHES)
    dtypes = (np.int64, np.int64, np.uint64, np.int32, np.uint8)
    return Words(*filled(_fill_words, data, offsets, tables, dtypes, bytes_per_span=4))


@numba.njit(cache=True)
def _fill_words(
    data_array, offsets, flags_array, abbreviation_array, doc_offsets, starts, ends, hashes, num_chars, kinds,
    document, position, n,
):  # fmt: skip
    data, flags, abbreviations = pointer_to(data_array), pointer_to(flags_array), pointer_to(abbreviation_array)
    columns = (pointer_to(starts), pointer_to(ends), pointer_to(hashes), pointer_to(num_chars), pointer_to(kinds))
    i = position
    for d in range(document, offsets.size - 1):
        i, n, room = words_between(data, i, offsets[d + 1], flags, abbreviations, columns, starts.size, n)
        if room:
            return d, i, n, room
        doc_offsets[d + 1] = n
    return offsets.size - 1, i, n, 0


@numba.njit(cache=True)
def words_between(data, i, stop, flags, abbreviations, columns, capacity, n):
    """Write the words of `data[i:stop]` into `columns`, pointers to those of `Words`, from index `n` on.

    Returns (`stop`, the index behind the last word, 0). Where `capacity` is too small, returns (the byte where it
    stopped, the index behind the words so far, how many more words may need room).
    """
    starts, ends, hashes, num_chars, kinds = columns
    while i < stop:
        start, seen, length = i, np.uint32(0), 0
        h = FNV_OFFSET
        width = 1
        while i < stop:  # a spaced word: what stands between white space
            byte = data[i]
            width = 1
            if byte < 0x80:
                char_flags = flags[byte]
            else:
                code, width = decode(data, i, stop)
                char_flags = flags_of(code, flags)
            if char_flags & SPACE:
                break
            h = (h ^ np.uint64(byte)) * FNV_PRIME
            for k in range(1, width):
                h = (h ^ np.uint64(data[i + k])) * FNV_PRIME
            seen |= char_flags
            length += 1
            i += width
        if i == start:
            i += width
            continue
        if n + (i - start) > capacity:
            return start, n, i - start
        if seen & ~np.uint32(_PLAIN) == 0 and not is_cannot(data, start, i):
            starts[n], ends[n], hashes[n], num_chars[n] = start, i, mix(h), length
            kinds[n] = HAS_ALPHA if seen & ALPHA else 0
            n += 1
            continue
        first = n
        n = split_spaced_word(data, start, i, seen, flags, abbreviations, starts, ends, n)
        for w in range(first, n):
            hashes[w], num_chars[w], kinds[w] = _measure(data, starts[w], ends[w], flags)
    return i, n, 0


@numba.njit(cache=True)
def _measure(data, start, end, flags):
    """(hash, code points, kinds) of one word."""
    h = FNV_OFFSET
    any_flags, all_flags = np.uint32(0), ~np.uint32(0)
    length = 0
    i = start
    while i < end:
        code, width = decode(data, i, end)
        char_flags = flags_of(code, flags)
        any_flags |= char_flags
        all_flags &= char_flags
        length += 1
        for k in range(i, i + width):
            h = (h ^ np.uint64(data[k])) * FNV_PRIME
        i += width
    kinds = 0
    if any_flags & ALPHA:
        kinds |= HAS_ALPHA
    if all_flags & SYMBOL:
        kinds |= IS_SYMBOL
    if all_flags & PUNCTUATION:
        kinds |= IS_PUNCTUATION
    if length == 1 and all_flags & SENTENCE_END:
        kinds |= ENDS_SENTENCE
    if any_flags & UNSPACED:
        kinds |= IS_UNSPACED
    return mix(h), length, kinds
