"""Rules 2 to 6 of `dataprep.text.words`, which cut a *spaced word* (what stands between white space) into words.

They work on the bytes of the buffer and write positions into arrays that the caller has made, so nothing is allocated.
"""

from __future__ import annotations

import numba
import numpy as np

from dataprep.text.characters import (
    ALPHA,
    CURRENCY,
    DIGIT,
    EDGE,
    INFIX,
    LOWER,
    MARK,
    PUNCTUATION,
    QUOTE,
    UNSPACED,
    UPPER,
    decode,
    flags_of,
    previous_start,
)
from dataprep.text.hashing import hash_bytes, hash_text

_ABBREVIATIONS = (
    "Mr. Mrs. Ms. Dr. Prof. St. Mt. Jr. Sr. Inc. Ltd. Co. co. Corp. Bros. Gen. Gov. Sen. Rep. Rev. Adm. vs. Ph.D. "
    "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec."
)
_DOT, _PLUS, _MINUS, _PERCENT, _EQUALS, _COMMA, _TILDE = 0x2E, 0x2B, 0x2D, 0x25, 0x3D, 0x2C, 0x7E
_APOSTROPHE, _RIGHT_QUOTE = 0x27, 0x2019
_ELLIPSIS, _EN_DASH, _EM_DASH, _SECTION, _SQUARED = 0x2026, 0x2013, 0x2014, 0xA7, 0xB2

ABBREVIATION_HASHES = np.array([hash_text(word) for word in _ABBREVIATIONS.split()], np.uint64)
_NUM_ABBREVIATIONS = len(ABBREVIATION_HASHES)


@numba.njit(cache=True)
def is_cannot(data, start, end):
    if end - start != 6 or data[start + 3] != 0x6E or (data[start] | 0x20) != 0x63:  # n, c
        return False
    return data[start + 1] == 0x61 and data[start + 2] == 0x6E and data[start + 4] == 0x6F and data[start + 5] == 0x74


@numba.njit(cache=True)
def split_spaced_word(data, lo, hi, seen, flags, abbreviations, starts, ends, n):
    """Write the words of the spaced word `data[lo:hi]` as spans from index `n` on; returns the index behind them.

    What is split off on the right waits, last first, at the far end of the slots that so many bytes can take at most.
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
def _leading_width(data, lo, hi, flags):
    """How many bytes are split off the left of `data[lo:hi]` as one word, or 0."""
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
def _trailing_width(data, lo, hi, flags, abbreviations):
    """How many bytes are split off the right of `data[lo:hi]` as one word, or 0."""
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
def _trailing_dots(data, lo, hi, flags, abbreviations):
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
        h = hash_bytes(data, lo, hi)
        for k in range(_NUM_ABBREVIATIONS):
            if h == abbreviations[k]:
                return 0
    return 1


@numba.njit(cache=True)
def _is_initialism(data, lo, hi, flags):
    """Whether `data[lo:hi]` is single letters with a dot behind each: "e.g.", "U.S.", "a."."""
    i = lo
    while i < hi:
        code, width = decode(data, i, hi)
        char_flags = flags_of(code, flags)
        if char_flags & ALPHA == 0 or char_flags & UNSPACED or i + width >= hi or data[i + width] != _DOT:
            return False
        i += width + 1
    return True


@numba.njit(cache=True)
def _trailing_contraction(data, lo, hi, flags):
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
def _split_inside(data, lo, hi, seen, flags, starts, ends, n):
    """Write what rules 5 and 6 make of `data[lo:hi]`, whose ends are split off already."""
    if is_cannot(data, lo, hi):
        starts[n], ends[n], starts[n + 1], ends[n + 1] = lo, lo + 3, lo + 3, hi
        return n + 2
    if seen & (INFIX | UNSPACED) == 0:
        starts[n], ends[n] = lo, hi
        return n + 1
    first = n
    begin = i = lo
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
            if begin < i:
                starts[n], ends[n] = begin, i
                n += 1
            starts[n], ends[n] = i, i + taken
            n += 1
            begin = i + taken
            i = previous_start(data, begin, i)
            before_code, width = decode(data, i, hi)
            before = flags_of(before_code, flags)
        else:
            before = char_flags
        i += width
    if begin < hi:
        starts[n], ends[n] = begin, hi
        n += 1
    return n


@numba.njit(cache=True)
def _infix_width(data, i, hi, code, width, before, flags):
    """Bytes of the infix that starts at byte `i` inside a spaced word, or 0."""
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
def char_is_pictograph(code, flags):
    """Whether a non-ASCII infix character is one of category So."""
    char_flags = flags_of(code, flags)
    return char_flags & INFIX != 0 and char_flags & EDGE != 0 and char_flags & PUNCTUATION == 0


@numba.njit(cache=True)
def _is_address(data, lo, hi):
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
def _is_label_byte(byte):
    letter = byte | 0x20
    return 0x61 <= letter <= 0x7A or 0x30 <= byte <= 0x39 or byte >= 0x80 or byte == 0x5F or byte == _MINUS


@numba.njit(cache=True)
def _is_host(data, i, hi):
    """Whether dotted labels begin at `i`, the last in lower case or all digits, with a port or path behind at most."""
    dots = 0
    label = i
    lower = digits = True  # of the label that is being read
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
