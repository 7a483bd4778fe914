"""RefinedWeb's line-wise corrections: lines that are navigation, counters or calls to act are cut.

Source: Penedo et al. 2023, arXiv:2306.01116, appendix G.2. A document that loses more than a small share of its words
was mostly such lines, and is dropped. Words are what stands between white space, and blank lines are left alone. A line
in a script without spaces is exempt from the rule that a line needs two words.
"""

from __future__ import annotations

import numba
import numpy as np

from dataprep.filters.config import RefinedWebSettings
from dataprep.filters.scores import Judged, Limit, Scores, at_least, at_most, first_failing
from dataprep.text.characters import DIGIT, LOWER, SPACE, UNSPACED, UPPER, character_flags, decode, flags_of
from dataprep.text.column import TextColumn
from dataprep.text.edits import KeptSpans
from dataprep.text.numba_pointers import pointer_to

NAME = "refinedweb"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = ("cut_lines_fraction", "cut_words_fraction")
_CUT_LINES_FRACTION, _CUT_WORDS_FRACTION = range(len(SCORES))
_NUM_SCORES = len(SCORES)
REASONS: tuple[str, ...] = ("too_many_words_cut",)

_COUNTER, _START, _END, _INNER = range(4)  # what a phrase is for
_COMMA, _DOT = 0x2C, 0x2E
_K, _M, _B = 0x6B, 0x6D, 0x62


def refinedweb(column: TextColumn, settings: RefinedWebSettings) -> Judged:
    """Find what stays of each document, and judge it by how much does not."""
    lists = (settings.counter_words, settings.start_phrases, settings.end_phrases, settings.inner_phrases)
    phrases = [(phrase.lower().strip(), kind) for kind, entries in enumerate(lists) for phrase in entries]
    encoded = [phrase.encode() for phrase, _ in phrases]
    lines = column.lines
    most_spans = 2 * len(lines.starts) + 1  # the first inner phrase parts a line in two
    spans = (np.empty(most_spans, np.int64), np.empty(most_spans, np.int64), np.empty(most_spans, np.bool_))
    scores_SD, doc_offsets, starts, ends, begins_line = _refinedweb(
        column.data, lines.doc_offsets, lines.starts, lines.ends, character_flags(),
        np.frombuffer(b"".join(encoded) or b"\0", np.uint8), np.cumsum([0, *map(len, encoded)]).astype(np.int64),
        np.array([kind for _, kind in phrases], np.int64),
        np.array([len(phrase.split()) for phrase, _ in phrases], np.int64),
        np.array([at_most(settings.max_uppercase_fraction), at_least(settings.min_words_per_line)]),
        settings.cut_numeric_lines, settings.short_line_words, *spans,
    )  # fmt: skip
    scores = Scores(SCORES, scores_SD)
    codes_D = first_failing(scores, [Limit(REASONS[0], "cut_words_fraction", most=settings.max_cut_words_fraction)])
    untouched_D = np.nan_to_num(scores["cut_words_fraction"]) == 0
    return Judged(codes_D, REASONS, scores, KeptSpans(doc_offsets, starts, ends, begins_line, untouched_D))


@numba.njit(cache=True)
def _refinedweb(
    data_array, line_offsets, line_starts, line_ends, flags_array, phrase_data_array, phrase_offsets_array,
    phrase_kinds_array, phrase_words_array, limits, cut_numeric, short_line_words, keep_starts, keep_ends, begins_line,
):  # fmt: skip
    data, flags = pointer_to(data_array), pointer_to(flags_array)
    phrases = (
        pointer_to(phrase_data_array), pointer_to(phrase_offsets_array), pointer_to(phrase_kinds_array),
        pointer_to(phrase_words_array), phrase_kinds_array.size,
    )  # fmt: skip
    max_uppercase, min_words = limits
    num_documents = line_offsets.size - 1
    scores_SD = np.full((_NUM_SCORES, num_documents), np.nan)
    doc_offsets = np.zeros(num_documents + 1, np.int64)
    n = 0
    for d in range(num_documents):
        lines = words = cut_lines = cut_words = 0
        for line in range(line_offsets[d], line_offsets[d + 1]):
            start, end, num_words, is_cut = _read_line(
                data, line_starts[line], line_ends[line], flags, max_uppercase, min_words, cut_numeric, phrases
            )
            lines += num_words > 0
            words += num_words
            if is_cut:
                cut_lines += 1
                cut_words += num_words
                continue
            first, last, gap_start, gap_end = line_starts[line], line_ends[line], start, start
            if 0 < num_words <= short_line_words:
                inner_start, inner_end, gap_start, gap_end, gone = _cut_phrases(data, start, end, flags, phrases)
                if gone:
                    cut_words += min(gone, num_words)
                    first, last = inner_start, inner_end
                    if first == last:
                        cut_lines += 1
                        continue
            keep_starts[n], keep_ends[n], begins_line[n] = first, last, True
            if gap_end > gap_start:
                keep_ends[n] = gap_start
                n += 1
                keep_starts[n], keep_ends[n], begins_line[n] = gap_end, last, False
            n += 1
        if words:
            scores_SD[_CUT_LINES_FRACTION, d] = cut_lines / lines
            scores_SD[_CUT_WORDS_FRACTION, d] = cut_words / words
        doc_offsets[d + 1] = n
    return scores_SD, doc_offsets, keep_starts[:n], keep_ends[:n], begins_line[:n]


@numba.njit(cache=True)
def _read_line(data, i, stop, flags, max_uppercase, min_words, cut_numeric, phrases):
    """(first byte, one past the last, words, whether it is to be cut) of a line, without white space around it."""
    start = end = i
    words = characters = blanks = capitals = digits = unspaced = 0
    in_word = False
    while i < stop:
        code, width = decode(data, i, stop)
        char_flags = flags_of(code, flags)
        if char_flags & SPACE:
            in_word = False
            blanks += 1
        else:
            if words == 0:
                start, characters, blanks = i, 0, 0
            words += not in_word
            in_word = True
            characters += blanks + 1
            blanks = 0
            capitals += char_flags & UPPER != 0 and char_flags & LOWER == 0
            digits += char_flags & DIGIT != 0
            unspaced += char_flags & UNSPACED != 0
            end = i + width
        i += width
    if words == 0:
        return start, end, 0, False
    is_cut = capitals / characters > max_uppercase or (unspaced == 0 and words < min_words)
    is_cut = is_cut or (cut_numeric and digits > 0 and _is_numeric(data, start, end, flags))
    return start, end, words, is_cut or (words == 2 and _is_counter(data, start, end, phrases))


@numba.njit(cache=True)
def _is_numeric(data, i, end, flags):
    while i < end:
        code, width = decode(data, i, end)
        if flags_of(code, flags) & (DIGIT | SPACE) == 0:
            return False
        i += width
    return True


@numba.njit(cache=True)
def _is_counter(data, i, end, phrases):
    """Whether the line is a number ("3", "1,024", "1.2K") and one of the counter words."""
    phrase_data, phrase_offsets, kinds, _, num_phrases = phrases
    first = i
    while i < end and (0x30 <= data[i] <= 0x39 or (i > first and (data[i] == _COMMA or data[i] == _DOT))):
        i += 1
    if i == first:
        return False
    if i < end and (data[i] | 0x20) in (_K, _M, _B):
        i += 1
    if i == end or data[i] > 0x20:
        return False
    while i < end and data[i] <= 0x20:
        i += 1
    for phrase in range(num_phrases):
        length = phrase_offsets[phrase + 1] - phrase_offsets[phrase]
        fits = kinds[phrase] == _COUNTER and length == end - i
        if fits and _matches(data, i, phrase_data, phrase_offsets[phrase], length):
            return True
    return False


@numba.njit(cache=True)
def _cut_phrases(data, start, end, flags, phrases):
    """(start, end, gap's start, gap's end, words cut) of what phrases leave of a line; start = end: nothing."""
    phrase_data, phrase_offsets, kinds, phrase_words, num_phrases = phrases
    gone = 0
    gap_start = gap_end = start
    for phrase in range(num_phrases):
        begin = phrase_offsets[phrase]
        length = phrase_offsets[phrase + 1] - begin
        if length == 0 or length > end - start:
            continue
        if kinds[phrase] == _START and _stands_at(data, start, start, end, phrase_data, begin, length):
            start += length
            gone += phrase_words[phrase]
        elif kinds[phrase] == _END and _stands_at(data, end - length, start, end, phrase_data, begin, length):
            end -= length
            gone += phrase_words[phrase]
        elif kinds[phrase] == _INNER and gap_end == gap_start:
            for i in range(start, end - length + 1):
                if _stands_at(data, i, start, end, phrase_data, begin, length):
                    gap_start, gap_end = i, i + length
                    gone += phrase_words[phrase]
                    break
    if gone == 0:
        return start, end, start, start, 0
    blank = True
    i = start
    while i < end:
        code, width = decode(data, i, end)
        if (i < gap_start or i >= gap_end) and flags_of(code, flags) & SPACE == 0:
            blank = False
        i += width
    return start, (start if blank else end), gap_start, gap_end, gone


@numba.njit(cache=True)
def _stands_at(data, i, start, end, phrase_data, begin, length):
    """Whether the phrase stands at byte `i` of the line `data[start:end]`, as words of its own."""
    if not _matches(data, i, phrase_data, begin, length):
        return False
    if i > start and _is_word_byte(data[i - 1]) and _is_word_byte(data[i]):
        return False
    after = i + length
    return after == end or not (_is_word_byte(data[after]) and _is_word_byte(data[after - 1]))


@numba.njit(cache=True)
def _is_word_byte(byte):
    return byte >= 0x80 or 0x30 <= byte <= 0x39 or 0x61 <= (byte | 0x20) <= 0x7A


@numba.njit(cache=True)
def _matches(data, i, phrase_data, begin, length):
    """Whether the phrase stands at byte `i`, whatever the case of A to Z; the caller makes sure that there is room."""
    for k in range(length):
        byte = np.int64(data[i + k])
        if 0x41 <= byte <= 0x5A:
            byte += 32
        if byte != phrase_data[begin + k]:
            return False
    return True
