"""Character classes for compiled loops over text: for each code point a word of flags, and its form in lower case.

The tables cover planes 0 and 1 of Unicode, and each process makes them once from `unicodedata`. Planes 2 and 3 hold
nothing but ideographs, which need no table; code points above have no class.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

SPACE = 1 << 0  # str.isspace
ALPHA = 1 << 1  # str.isalpha
LOWER = 1 << 2  # a letter that is not upper case: lower case or without case
UPPER = 1 << 3  # a letter that is not lower case: upper or title case, or without case
DIGIT = 1 << 4  # decimal digits of any script (Nd)
PUNCTUATION = 1 << 5  # categories P*
SYMBOL = 1 << 6  # punctuation, symbols and control characters: what "symbol words" are made of
EDGE = 1 << 7  # split off either end of a spaced word
INFIX = 1 << 8  # splits the inside of a spaced word, where its neighbours are such
UNSPACED = 1 << 9  # letters of scripts written without spaces: each is a word
SENTENCE_END = 1 << 10  # Unicode's Sentence_Terminal
MARK = 1 << 11  # combining marks (M*), which join the character before them
TERM = 1 << 12  # letters, marks and numbers: what shingle terms are made of
CURRENCY = 1 << 13  # category Sc
QUOTE = 1 << 14

TABLE_SIZE = 0x20000
_IDEOGRAPH_END = 0x40000
IDEOGRAPH = ALPHA | LOWER | UPPER | UNSPACED | TERM

_QUOTES = "'\"`´‘’‚‛“”„‟«»‹›「」『』"
_NOT_EDGE = "-/\\@.%§‐‑‒–—―•‣†‡‰"  # punctuation that belongs to names, paths and numbers, or has a rule of its own
_INFIXES = "-–—~,:<>=/.+*^…"
# Han, kana, Thai, Lao, Tibetan, Myanmar, Khmer and their relatives.
_UNSPACED_RANGES = (
    (0x0E01, 0x0E30), (0x0E32, 0x0E33), (0x0E40, 0x0E46), (0x0E81, 0x0EB0), (0x0EB2, 0x0EB3), (0x0EBD, 0x0EC6),
    (0x0EDC, 0x0EDF), (0x0F00, 0x0F00), (0x0F40, 0x0F6C), (0x1000, 0x102A), (0x103F, 0x103F), (0x1050, 0x1055),
    (0x1780, 0x17B3), (0x1950, 0x19AB), (0x1A20, 0x1A54), (0x3005, 0x3007), (0x3021, 0x3029), (0x3041, 0x3096),
    (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF), (0xFF66, 0xFF9D),
)  # fmt: skip
# PropList.txt of the Unicode character database, property Sentence_Terminal.
_SENTENCE_TERMINAL = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D5 1803
1809 1944-1945 1AA8-1AAB 1B4E-1B4F 1B5A-1B5B 1B5E-1B5F 1B7D-1B7F 1C3B-1C3C 1C7E-1C7F 2024 203C-203D 2047-2049
2CF9-2CFB 2E2E 2E3C 2E53-2E54 2E60-2E61 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F
AAF0-AAF1 ABEB FE12 FE15-FE16 FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048
110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 113D4-113D5 1144B-1144C
115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8
11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16D6E-16D6F 16E98 1BC9F 1DA88
"""


@lru_cache(maxsize=1)
def character_flags() -> npt.NDArray[np.uint32]:
    """[0x20000] the flags of each code point."""
    characters = [chr(code) for code in range(TABLE_SIZE)]
    categories = np.array([unicodedata.category(c) for c in characters])
    major = categories.astype("U1")
    alpha = np.array([c.isalpha() for c in characters])
    flags = np.zeros(TABLE_SIZE, np.uint32)
    flags[[c.isspace() for c in characters]] |= SPACE
    flags[alpha] |= ALPHA
    flags[alpha & ~np.isin(categories, ("Lu", "Lt"))] |= LOWER
    flags[alpha & (categories != "Ll")] |= UPPER
    flags[categories == "Nd"] |= DIGIT
    flags[major == "P"] |= PUNCTUATION
    flags[np.isin(major, ("P", "S")) | (categories == "Cc")] |= SYMBOL
    flags[(major == "P") | (categories == "So")] |= EDGE
    flags[categories == "So"] |= INFIX
    flags[major == "M"] |= MARK
    flags[np.isin(major, ("L", "M", "N"))] |= TERM
    flags[categories == "Sc"] |= CURRENCY
    flags[[ord(c) for c in _QUOTES]] |= QUOTE
    flags[[ord(c) for c in "<>`´"]] |= EDGE
    flags[[ord(c) for c in _NOT_EDGE]] &= ~np.uint32(EDGE)
    flags[[ord(c) for c in _INFIXES]] |= INFIX
    for first, last in _UNSPACED_RANGES:
        letters = flags[first : last + 1]
        letters[(letters & TERM) != 0] |= UNSPACED
    for item in _SENTENCE_TERMINAL.split():
        first, last = (int(code, 16) for code in (item.split("-") * 2)[:2])
        flags[first : last + 1] |= SENTENCE_END
    return flags


@lru_cache(maxsize=1)
def folded_characters() -> npt.NDArray[np.uint32]:
    """[0x20000] each code point in lower case and without accents; 0 for a mark, which is to be left out.

    Of a character that decomposes into several letters the first stands for all, so "ǆ" matches "d". Hangul syllables
    stay whole.
    """
    folded = np.arange(TABLE_SIZE, dtype=np.uint32)
    for code in range(0x41, TABLE_SIZE):
        character = chr(code)
        if unicodedata.combining(character) and unicodedata.category(character) == "Mn":
            folded[code] = 0
        elif not 0xAC00 <= code <= 0xD7A3:
            folded[code] = ord(unicodedata.normalize("NFD", character.lower())[0])
    return folded


@lru_cache(maxsize=1)
def lower_characters() -> npt.NDArray[np.uint32]:
    """[0x20000] each code point in lower case; the first character of those whose lower case has several."""
    return np.array([ord(chr(code).lower()[0]) for code in range(TABLE_SIZE)], np.uint32)


@numba.njit(cache=True)
def decode(data, i, end):
    """(code point, length in bytes) of the UTF-8 character at `data[i]`; (U+FFFD, 1) for a byte out of place."""
    lead = data[i]
    if lead < 0x80:
        return np.int64(lead), 1
    if 0xC2 <= lead < 0xE0 and i + 1 < end:
        return (np.int64(lead) & 0x1F) << 6 | np.int64(data[i + 1]) & 0x3F, 2
    if 0xE0 <= lead < 0xF0 and i + 2 < end:
        return (np.int64(lead) & 0x0F) << 12 | (np.int64(data[i + 1]) & 0x3F) << 6 | np.int64(data[i + 2]) & 0x3F, 3
    if 0xF0 <= lead < 0xF5 and i + 3 < end:
        high = (np.int64(lead) & 0x07) << 18 | (np.int64(data[i + 1]) & 0x3F) << 12
        return high | (np.int64(data[i + 2]) & 0x3F) << 6 | np.int64(data[i + 3]) & 0x3F, 4
    return np.int64(0xFFFD), 1


@numba.njit(cache=True)
def previous_start(data, i, begin):
    """Where the character starts that ends before byte `i`, though not before `begin`."""
    i -= 1
    while i > begin and data[i] & 0xC0 == 0x80:
        i -= 1
    return i


@numba.njit(cache=True)
def flags_of(code, flags):
    """The flags of any code point; `flags` is a pointer to `character_flags`."""
    if code < TABLE_SIZE:
        return flags[code]
    if code < _IDEOGRAPH_END:
        return np.uint32(IDEOGRAPH)
    return np.uint32(0)


@numba.njit(cache=True)
def encode(code, out, n):
    """Write a code point as UTF-8 at `out[n]`; returns the index behind it."""
    if code < 0x80:
        out[n] = code
        return n + 1
    if code < 0x800:
        out[n] = 0xC0 | code >> 6
    else:
        if code < 0x10000:
            out[n] = 0xE0 | code >> 12
        else:
            out[n] = 0xF0 | code >> 18
            n += 1
            out[n] = 0x80 | code >> 12 & 0x3F
        n += 1
        out[n] = 0x80 | code >> 6 & 0x3F
    out[n + 1] = 0x80 | code & 0x3F
    return n + 2
