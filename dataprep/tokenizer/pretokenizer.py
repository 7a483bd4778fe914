"""Cuts text into pre-tokens, within which byte-level BPE merges, by the pattern of GPT-4 and Llama 3.

`PRE_TOKEN_PATTERN` is that pattern as a regular expression, `pre_token_end` the same in compiled code. A pre-token is
the first of these that fits:

1. a contraction, from its apostrophe on ("'s", "'ll"),
2. letters, with at most one character before them that is neither a letter, a number nor a line break,
3. up to three numbers,
4. characters that are neither space, letters nor numbers, with at most one space before and all line breaks after them,
5. white space up to its last line break,
6. white space without its last character, which joins the word behind it,
7. white space.

Which characters `\\p{L}`, `\\p{N}` and `\\s` stand for depends on the version of Unicode, so the Hugging Face library's
own regular expressions are asked.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

from dataprep.text.characters import decode

# What `pre_token_end` does.
PRE_TOKEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OTHER, _LETTER, _NUMBER, _SPACE, _LINE_BREAK = range(5)
_NUM_CODES = 0x110000
_FIRST_PLANES = 0x40000  # planes 0 to 3; those above hold no letter, number or space
_SURROGATES = (0xD800, 0xE000)
_MOST_NUMBERS = 3
_LONG_S = 0x17F  # "ſ", which is an "s" where case is ignored


@lru_cache(maxsize=1)
def character_classes() -> npt.NDArray[np.uint8]:
    """[0x110000] the class of every code point: letter, number, line break, other white space, or none of these."""
    from tokenizers import Regex, pre_tokenizers

    codes = [code for code in range(_FIRST_PLANES) if not _SURROGATES[0] <= code < _SURROGATES[1]]
    text = "".join(map(chr, codes))
    classes = np.full(_NUM_CODES, _OTHER, np.uint8)
    for pattern, kind in ((r"\p{L}+", _LETTER), (r"\p{N}+", _NUMBER), (r"\s+", _SPACE)):
        matches = np.ones(len(codes), bool)
        for _, (start, end) in pre_tokenizers.Split(Regex(pattern), behavior="removed").pre_tokenize_str(text):
            matches[start:end] = False
        classes[np.array(codes)[matches]] = kind
    classes[[ord("\r"), ord("\n")]] = _LINE_BREAK
    classes.flags.writeable = False
    return classes


@numba.njit(cache=True)
def pre_token_end(data, i, stop, classes):
    """Where the pre-token at the beginning of the UTF-8 text `data[i:stop]` ends; `data` and `classes` are pointers."""
    code, width = decode(data, i, stop)
    kind, end = classes[code], i + width
    if code == 0x27:
        contraction = _contraction_end(data, end, stop)
        if contraction > 0:
            return contraction
    if kind == _LETTER:
        return _run_end(data, end, stop, classes, _LETTER)
    if kind == _NUMBER:
        count = 1
        while end < stop and count < _MOST_NUMBERS:
            code, width = decode(data, end, stop)
            if classes[code] != _NUMBER:
                break
            end += width
            count += 1
        return end
    if kind != _LINE_BREAK and end < stop:
        next_code, next_width = decode(data, end, stop)
        next_kind = classes[next_code]
        if next_kind == _LETTER:
            return _run_end(data, end + next_width, stop, classes, _LETTER)
        if code == 0x20 and next_kind == _OTHER:
            kind = _OTHER
            end += next_width
    if kind == _OTHER:
        end = _run_end(data, end, stop, classes, _OTHER)
        while end < stop and (data[end] == 0x0A or data[end] == 0x0D):
            end += 1
        return end
    return _space_end(data, i, stop, classes)


@numba.njit(cache=True)
def _run_end(data, i, stop, classes, kind):
    """Where the run of characters of one class ends."""
    while i < stop:
        code, width = decode(data, i, stop)
        if classes[code] != kind:
            break
        i += width
    return i


@numba.njit(cache=True)
def _space_end(data, i, stop, classes):
    """Where a pre-token of white space ends: after its last line break, else before the character that joins a word."""
    end, last_start, after_break = i, i, 0
    while end < stop:
        code, width = decode(data, end, stop)
        kind = classes[code]
        if kind != _SPACE and kind != _LINE_BREAK:
            break
        last_start = end
        end += width
        if kind == _LINE_BREAK:
            after_break = end
    if after_break > 0:
        return after_break
    return last_start if end < stop and last_start > i else end


@numba.njit(cache=True)
def _contraction_end(data, i, stop):
    """Where a contraction ends whose letters begin at byte `i`, behind the apostrophe; 0 where there is none."""
    if i >= stop:
        return 0
    code, width = decode(data, i, stop)
    if code == _LONG_S:
        return i + width
    first = code | 0x20 if code < 0x80 else 0
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:  # s, t, m, d
        return i + 1
    second = data[i + 1] | 0x20 if i + 1 < stop else 0
    if ((first == 0x72 or first == 0x76) and second == 0x65) or (first == 0x6C and second == 0x6C):  # re, ve, ll
        return i + 2
    return 0
