"""Text to words, as offsets and 64-bit hashes in flat arrays over the UTF-8 buffer: no Python object per word.

**Words** (`split_words`) are what the filters count. Punctuation counts, as in Gopher's and FineWeb's published
thresholds, which were set on spaCy's English tokens:

1. White space (`str.isspace`) separates; every other character belongs to exactly one word.
2. Punctuation and pictographs at either end of a piece are words of their own, one character each; so is a run
   of two or more dots. `- / \\ @ . %` and dashes stay inside; leading `= % + $` (`+` unless a digit follows),
   trailing `%` and currency after a digit and trailing `+` after a digit are split off.
3. A final dot is split off after a lower-case letter, a digit, punctuation or two capitals, but not from an
   initialism (single letters and dots: "e.g.", "U.S.") nor from the abbreviations listed below.
4. "'s" is split off, and so are "n't", "'ll", "'ve", "'re", "'d", "'m"; "cannot" is two words.
5. Inside what is left, these split where letters stand on both sides: hyphens, `,`, `: < > = /` (but for the comma, a
   digit may stand on the left), `.` between a lower- and an upper-case letter; `+ - * ^` between digits; pictographs
   and runs of dots always. Addresses ("example.org/a-b", "me@example.org") are left whole.
6. In scripts without spaces (Han, kana, Thai, Lao, Khmer, Myanmar, Tibetan) each letter with its marks is a word,
   whatever stands around it, and so is each punctuation character beside them. Filters exempt such words where a
   rule is about word length or stop words.

**Terms** (`split_terms`) are what duplicates and overlaps are matched on: maximal runs of letters, marks and numbers,
in lower case, without accents, each number (with its inner `.` and `,`) as a single "0"; rule 6 as above.
So neither case, accents, digits nor punctuation keeps two copies apart.

Shape letters: D documents, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from dataprep.characters import (
    ALPHA,
    CURRENCY,
    DIGIT,
    EDGE,
    INFIX,
    LOWER,
    MARK,
    PUNCTUATION,
    QUOTE,
    SENTENCE_END,
    SPACE,
    SYMBOL,
    TABLE_SIZE,
    TERM,
    UNSPACED,
    UPPER,
    character_flags,
    decode,
    flags_of,
    folded_characters,
    previous_start,
)
from dataprep.hashing import FNV_OFFSET, FNV_PRIME, hash_text, mix
from dataprep.pointers import pointer_to

# What a word is made of: bits of `Words.kinds`.
HAS_ALPHA = 1  # at least one letter
IS_SYMBOL = 2  # nothing but punctuation, symbols and control characters
IS_PUNCTUATION = 4  # nothing but punctuation (Unicode P*)
ENDS_SENTENCE = 8  # a single sentence-ending character
IS_UNSPACED = 16  # a letter of a script without spaces

_ABBREVIATIONS = (
    "Mr. Mrs. Ms. Dr. Prof. St. Mt. Jr. Sr. Inc. Ltd. Co. co. Corp. Bros. Gen. Gov. Sen. Rep. Rev. Adm. vs. Ph.D. "
    "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec."
)
_PLAIN = ALPHA | LOWER | UPPER | DIGIT | TERM | MARK
_DOT, _PLUS, _MINUS, _PERCENT, _EQUALS, _COMMA, _TILDE = 0x2E, 0x2B, 0x2D, 0x25, 0x3D, 0x2C, 0x7E
_APOSTROPHE, _RIGHT_QUOTE = 0x27, 0x2019
_ELLIPSIS, _EN_DASH, _EM_DASH, _SECTION, _SQUARED = 0x2026, 0x2013, 0x2014, 0xA7, 0xB2


@dataclass(frozen=True)
class Spans:
    """Pieces of a buffer, document after document."""

    doc_offsets: npt.NDArray[np.int64]  # [D+1] document d has the pieces doc_offsets[d]:doc_offsets[d+1]
    starts: npt.NDArray[np.int64]  # [W] first byte
    ends: npt.NDArray[np.int64]  # [W] one past the last byte
    hashes: npt.NDArray[np.uint64]  # [W]

    @property
    def num_documents(self) -> int:
        return len(self.doc_offsets) - 1

    def counts_D(self) -> npt.NDArray[np.int64]:
        """How many pieces each document has."""
        return np.diff(self.doc_offsets)


@dataclass(frozen=True)
class Words(Spans):
    """The words of each document; hashes are of their exact bytes."""

    num_chars: npt.NDArray[np.int32]  # [W] length in code points
    kinds: npt.NDArray[np.uint8]  # [W] HAS_ALPHA and the other bits above


def split_words(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Words:
    """The words of D documents; document d is the UTF-8 text `data[offsets[d]:offsets[d+1]]`."""
    tables = (character_flags(), ABBREVIATION_HASHES)
    dtypes = (np.int64, np.int64, np.uint64, np.int32, np.uint8)
    return Words(*_filled(_fill_words, data, offsets, tables, dtypes, bytes_per_span=4))


def split_terms(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Spans:
    """The terms of D documents; hashes are of their folded form."""
    tables = (character_flags(), folded_characters())
    return Spans(*_filled(_fill_terms, data, offsets, tables, (np.int64, np.int64, np.uint64), bytes_per_span=5))


def _filled(
    fill: Any,
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    tables: tuple[npt.NDArray[Any], ...],
    dtypes: Sequence[type[np.generic]],
    *,
    bytes_per_span: int,
) -> list[npt.NDArray[Any]]:
    """Run a splitter, with larger arrays from where it stopped whenever it runs out of room.

    It can't grow them itself: an array that a compiled loop assigns to is reference-counted at every turn.
    """
    doc_offsets = np.zeros(len(offsets), np.int64)
    capacity = max(64, int(offsets[-1] - offsets[0]) // bytes_per_span)
    columns: list[npt.NDArray[Any]] = [np.empty(capacity, dtype) for dtype in dtypes]
    state = (0, int(offsets[0]), 0)  # document, byte, spans so far
    while True:
        document, position, num_spans, room = fill(data, offsets, *tables, doc_offsets, *columns, *state)
        if document == len(offsets) - 1:
            return [doc_offsets, *(column[:num_spans] for column in columns)]
        state = (document, position, num_spans)
        capacity = max(2 * capacity, num_spans + room)
        columns = [np.concatenate([column, np.empty(capacity - len(column), column.dtype)]) for column in columns]


ABBREVIATION_HASHES = np.array([hash_text(word) for word in _ABBREVIATIONS.split()], np.uint64)
_NUM_ABBREVIATIONS = len(ABBREVIATION_HASHES)


@numba.njit(cache=True)
def _fill_words(  # type: ignore[no-untyped-def]
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
def words_between(data, i, stop, flags, abbreviations, columns, capacity, n):  # type: ignore[no-untyped-def]
    """Write the words of `data[i:stop]` into `columns` (pointers to those of `Words`) from index `n` on.

    Returns (`stop`, the index after the last word, 0), or, where `capacity` is too small, (the byte where it stopped,
    the index so far, how many more words may need room).
    """
    starts, ends, hashes, num_chars, kinds = columns
    while i < stop:
        start, seen, length = i, np.uint32(0), 0
        h = FNV_OFFSET
        width = 1
        while i < stop:  # one piece between white space
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
        if seen & ~np.uint32(_PLAIN) == 0 and not _is_cannot(data, start, i):
            starts[n], ends[n], hashes[n], num_chars[n] = start, i, mix(h), length
            kinds[n] = HAS_ALPHA if seen & ALPHA else 0
            n += 1
            continue
        first = n
        n = _split_piece(data, start, i, seen, flags, abbreviations, starts, ends, n)
        for w in range(first, n):
            hashes[w], num_chars[w], kinds[w] = _measure(data, starts[w], ends[w], flags)
    return i, n, 0


@numba.njit(cache=True)
def _measure(data, start, end, flags):  # type: ignore[no-untyped-def]
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


@numba.njit(cache=True)
def _is_cannot(data, start, end):  # type: ignore[no-untyped-def]
    if end - start != 6 or data[start + 3] != 0x6E or (data[start] | 0x20) != 0x63:  # n, c
        return False
    return data[start + 1] == 0x61 and data[start + 2] == 0x6E and data[start + 4] == 0x6F and data[start + 5] == 0x74


@numba.njit(cache=True)
def _split_piece(data, lo, hi, seen, flags, abbreviations, starts, ends, n):  # type: ignore[no-untyped-def]
    """Rules 2 to 6 on `data[lo:hi]`, which has no white space. Writes spans from index `n` on; returns the next one.

    What is peeled off the right waits, last first, in the slots that a piece of this length can take at most.
    """
    bottom = n + (hi - lo)
    waiting = bottom
    while lo < hi:
        width = _leading_width(data, lo, hi, flags)
        if width == 0:
            break
        starts[n], ends[n] = lo, lo + width
        n += 1
        lo += width
    while lo < hi:
        width = _trailing_width(data, lo, hi, flags, abbreviations)
        if width == 0:
            break
        waiting -= 1
        starts[waiting], ends[waiting] = hi - width, hi
        hi -= width
    if lo < hi:
        n = _split_inside(data, lo, hi, seen, flags, starts, ends, n)
    for w in range(waiting, bottom):
        starts[n], ends[n] = starts[w], ends[w]
        n += 1
    return n


@numba.njit(cache=True)
def _leading_width(data, lo, hi, flags):  # type: ignore[no-untyped-def]
    """Bytes to peel off the left of `data[lo:hi]`, or 0."""
    code, width = decode(data, lo, hi)
    char_flags = flags_of(code, flags)
    if char_flags & (UNSPACED | ALPHA | DIGIT):
        return 0
    if code == _DOT:
        run = lo + 1
        while run < hi and data[run] == _DOT:
            run += 1
        return run - lo if run - lo > 1 else 0
    if char_flags & (EDGE | CURRENCY):
        return width
    if code in (_EQUALS, _PERCENT, _SECTION, _EN_DASH, _EM_DASH):
        return width
    if code == _PLUS and not (lo + 1 < hi and flags_of(decode(data, lo + 1, hi)[0], flags) & DIGIT):
        return width
    return 0


@numba.njit(cache=True)
def _trailing_width(data, lo, hi, flags, abbreviations):  # type: ignore[no-untyped-def]
    """Bytes to peel off the right of `data[lo:hi]`, or 0."""
    at = previous_start(data, hi, lo)
    code, width = decode(data, at, hi)
    char_flags = flags_of(code, flags)
    if code == _DOT:
        return _trailing_dots(data, lo, hi, flags, abbreviations)
    if char_flags & UNSPACED:
        return 0
    if char_flags & EDGE or code in (_EN_DASH, _EM_DASH):
        return width
    if at == lo:
        return 0
    before_at = previous_start(data, at, lo)
    before = flags_of(decode(data, before_at, at)[0], flags)
    if code in (_PERCENT, _PLUS) or char_flags & CURRENCY:
        return width if before & DIGIT else 0
    if char_flags & ALPHA and code < 0x80:
        return _trailing_contraction(data, lo, hi, flags)
    return 0


@numba.njit(cache=True)
def _trailing_dots(data, lo, hi, flags, abbreviations):  # type: ignore[no-untyped-def]
    run = hi - 1
    while run > lo and data[run - 1] == _DOT:
        run -= 1
    if hi - run > 1:
        return hi - run
    if run == lo:
        return 0
    at = previous_start(data, run, lo)
    code, _ = decode(data, at, run)
    before = flags_of(code, flags)
    splits = before & (LOWER | DIGIT | EDGE) != 0 or code in (_PERCENT, _MINUS, _PLUS, _SQUARED)
    if not splits and before & UPPER and at > lo:
        splits = flags_of(decode(data, previous_start(data, at, lo), at)[0], flags) & UPPER != 0
    if not splits or _is_initialism(data, lo, hi, flags):
        return 0
    if hi - lo <= 6:
        h, _, _ = _measure(data, lo, hi, flags)
        for k in range(_NUM_ABBREVIATIONS):
            if h == abbreviations[k]:
                return 0
    return 1


@numba.njit(cache=True)
def _is_initialism(data, lo, hi, flags):  # type: ignore[no-untyped-def]
    """Whether `data[lo:hi]` is single letters, each with its dot: "e.g.", "U.S.", "a."."""
    i = lo
    while i < hi:
        code, width = decode(data, i, hi)
        char_flags = flags_of(code, flags)
        if char_flags & ALPHA == 0 or char_flags & UNSPACED or i + width >= hi or data[i + width] != _DOT:
            return False
        i += width + 1
    return True


@numba.njit(cache=True)
def _trailing_contraction(data, lo, hi, flags):  # type: ignore[no-untyped-def]
    """Bytes of a final "'s", "n't", "'ll", "'ve", "'re", "'d" or "'m" after a letter or digit, or 0."""
    last = data[hi - 1]
    letters = 1
    if last in (0x6C, 0x65):  # l, e
        letters = 2
        if hi - lo < 3 or not (
            (last == 0x6C and data[hi - 2] == 0x6C) or (last == 0x65 and data[hi - 2] in (0x76, 0x72))  # ll, ve, re
        ):
            return 0
    elif last not in (0x73, 0x53, 0x74, 0x64, 0x6D):  # s, S, t, d, m
        return 0
    if hi - letters <= lo:
        return 0
    apostrophe = previous_start(data, hi - letters, lo)
    code, _ = decode(data, apostrophe, hi)
    if code != _APOSTROPHE and code != _RIGHT_QUOTE:
        return 0
    split = apostrophe
    if last == 0x74:
        split -= 1
        if split <= lo or data[split] != 0x6E:  # n
            return 0
    if split <= lo:
        return 0
    before = flags_of(decode(data, previous_start(data, split, lo), split)[0], flags)
    if before & ALPHA == 0 and last not in (0x73, 0x53):
        return 0
    return hi - split


@numba.njit(cache=True)
def _split_inside(data, lo, hi, seen, flags, starts, ends, n):  # type: ignore[no-untyped-def]
    """Rules 5 and 6."""
    if _is_cannot(data, lo, hi):
        starts[n], ends[n], starts[n + 1], ends[n + 1] = lo, lo + 3, lo + 3, hi
        return n + 2
    if seen & (INFIX | UNSPACED) == 0:
        starts[n], ends[n] = lo, hi
        return n + 1
    first = n
    piece = i = lo
    before, before_code = np.uint32(0), np.int64(0)
    while i < hi:
        code, width = decode(data, i, hi)
        char_flags = flags_of(code, flags)
        taken = 0
        if char_flags & UNSPACED:
            taken = width
            while i + taken < hi:
                mark, mark_width = decode(data, i + taken, hi)
                if flags_of(mark, flags) & MARK == 0:
                    break
                taken += mark_width
        elif seen & UNSPACED and char_flags & PUNCTUATION and code > 0x7F:
            taken = width
        elif char_flags & INFIX and i > lo:
            taken = _infix_width(data, i, hi, code, width, before, flags)
            if taken and n == first and _is_address(data, lo, hi):
                break
        if taken:
            if piece < i:
                starts[n], ends[n] = piece, i
                n += 1
            starts[n], ends[n] = i, i + taken
            n += 1
            piece = i + taken
            i = previous_start(data, piece, i)
            before_code, width = decode(data, i, hi)
            before = flags_of(before_code, flags)
        else:
            before = char_flags
        i += width
    if piece < hi:
        starts[n], ends[n] = piece, hi
        n += 1
    return n


@numba.njit(cache=True)
def _infix_width(data, i, hi, code, width, before, flags):  # type: ignore[no-untyped-def]
    """Bytes of the infix that starts at byte `i` inside a piece, or 0."""
    end = i + width
    if code == _DOT or code == _MINUS or code == _EM_DASH:
        while end < hi and decode(data, end, hi)[0] == code:
            end += width
    after = flags_of(decode(data, end, hi)[0], flags) if end < hi else np.uint32(0)
    if code == _DOT:
        if end - i > 1:
            return end - i
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if code == _ELLIPSIS or (code > 0x7F and char_is_pictograph(code, flags)):
        return width
    if code in (_PLUS, _MINUS, 0x2A, 0x5E) and before & DIGIT:  # + - * ^
        after_one = data[i + 1] if i + 1 < hi else np.uint8(0)
        if after_one == _MINUS or 0x30 <= after_one <= 0x39:
            return 1
    if code == _COMMA:
        return 1 if before & ALPHA and after & ALPHA else 0
    if code in (_PLUS, 0x2A, 0x5E):
        return 0
    longest = 3 if code == _MINUS else 2 if code == _EM_DASH else 1
    if before & (ALPHA | DIGIT) and after & ALPHA and end - i <= longest * width:
        return end - i
    return 0


@numba.njit(cache=True)
def char_is_pictograph(code, flags):  # type: ignore[no-untyped-def]
    """Whether a non-ASCII infix character is one of category So."""
    char_flags = flags_of(code, flags)
    return char_flags & INFIX != 0 and char_flags & EDGE != 0 and char_flags & PUNCTUATION == 0


@numba.njit(cache=True)
def _is_address(data, lo, hi):  # type: ignore[no-untyped-def]
    """Whether `data[lo:hi]` reads as a URL, a host name or an e-mail address."""
    host = lo
    while host < hi and (_is_label_byte(data[host]) or data[host] in (_DOT, _PLUS)):
        host += 1
    if host - lo >= 2 and host + 2 < hi and data[host] == 0x3A and data[host + 1] == 0x2F and data[host + 2] == 0x2F:
        host += 3
    else:
        host = lo
    if _is_host(data, host, hi):
        return True
    for i in range(host + 1, hi):
        if data[i] == 0x40 and _is_host(data, i + 1, hi):  # @
            return True
    return False


@numba.njit(cache=True)
def _is_label_byte(byte):  # type: ignore[no-untyped-def]
    letter = byte | 0x20
    return 0x61 <= letter <= 0x7A or 0x30 <= byte <= 0x39 or byte >= 0x80 or byte == 0x5F or byte == _MINUS


@numba.njit(cache=True)
def _is_host(data, i, hi):  # type: ignore[no-untyped-def]
    """Whether dotted labels, the last in lower case or all numeric, begin at `i`, at most a port or path behind."""
    dots = 0
    label = i
    lower = digits = True  # of the label under way
    while i < hi:
        byte = data[i]
        if byte == _DOT:
            if i == label or data[i - 1] in (0x5F, _MINUS) or data[label] in (0x5F, _MINUS):
                return False
            dots += 1
            label = i + 1
            lower = digits = True
        elif _is_label_byte(byte):
            lower = lower and (0x61 <= byte <= 0x7A or byte >= 0x80)
            digits = digits and 0x30 <= byte <= 0x39
        else:
            break
        i += 1
    if not (dots >= 1 and lower and i - label >= 2) and not (dots == 3 and digits and i > label):
        return False
    if i < hi and data[i] == 0x3A:  # a port
        port = i + 1
        while port < hi and 0x30 <= data[port] <= 0x39:
            port += 1
        if not 2 <= port - i - 1 <= 5:
            return False
        i = port
    return i == hi or data[i] in (0x2F, 0x3F, 0x23)  # / ? #


@numba.njit(cache=True)
def _fill_terms(  # type: ignore[no-untyped-def]
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
def _end_of_number(data, i, stop, flags):  # type: ignore[no-untyped-def]
    """One past digits that may be joined by single dots and commas."""
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
