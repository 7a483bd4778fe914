"""Gopher's quality rules: on document length, word length, symbols, bullets, ellipses, letters and stop words.

Source: Rae et al. 2021, arXiv:2112.11446, appendix A.1, in datatrove's order. Punctuation counts as words, except where
a rule says "words that are not symbols alone". The rules on word length and stop words are about scripts with spaces,
so documents most of whose words are letters of scripts without spaces are exempt from them.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from dataprep.filters.config import GopherQualitySettings
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.text.characters import SPACE, character_flags, decode, flags_of, previous_start
from dataprep.text.column import TextColumn
from dataprep.text.hash_table import find_slot, insert, new_table
from dataprep.text.hashing import hash_text
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.words import HAS_ALPHA, IS_SYMBOL, IS_UNSPACED

NAME = "gopher_quality"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = (
    "num_words",  # that are not symbols alone
    "mean_word_length",  # of the same words, in characters
    "hash_word_ratio",
    "ellipsis_word_ratio",
    "bullet_lines_fraction",
    "ellipsis_lines_fraction",
    "alpha_words_fraction",
    "num_stop_words",  # how many different ones occur
)
(
    _NUM_WORDS, _MEAN_WORD_LENGTH, _HASHES_PER_WORD, _ELLIPSES_PER_WORD, _BULLET_LINES, _ELLIPSIS_LINES, _ALPHA_WORDS,
    _NUM_STOP_WORDS,
) = range(len(SCORES))  # fmt: skip
_NUM_SCORES = len(SCORES)
REASONS: tuple[str, ...] = (
    "gopher_short_doc",
    "gopher_long_doc",
    "gopher_below_avg_threshold",
    "gopher_above_avg_threshold",
    "gopher_too_many_hashes",
    "gopher_too_many_ellipsis",
    "gopher_too_many_bullets",
    "gopher_too_many_end_ellipsis",
    "gopher_below_alpha_threshold",
    "gopher_enough_stop_words",
)
_HASH, _DOT, _DASH = 0x23, 0x2E, 0x2D
_BULLET, _ELLIPSIS = 0x2022, 0x2026


def gopher_quality(column: TextColumn, settings: GopherQualitySettings) -> Judged:
    """Measure and judge each document."""
    scores = measure(column, settings)
    return Judged(decide(scores, settings), REASONS, scores)


def decide(scores: Scores, settings: GopherQualitySettings) -> npt.NDArray[np.uint8]:
    """[D] 0 for keep, else 1 + the index into `REASONS` of the first rule that fails."""
    limits = (
        ("num_words", settings.min_doc_words, None),
        ("num_words", None, settings.max_doc_words),
        ("mean_word_length", settings.min_avg_word_length, None),
        ("mean_word_length", None, settings.max_avg_word_length),
        ("hash_word_ratio", None, settings.max_symbol_word_ratio),
        ("ellipsis_word_ratio", None, settings.max_symbol_word_ratio),
        ("bullet_lines_fraction", None, settings.max_bullet_lines_fraction),
        ("ellipsis_lines_fraction", None, settings.max_ellipsis_lines_fraction),
        ("alpha_words_fraction", settings.min_alpha_words_fraction, None),
        ("num_stop_words", settings.min_stop_words, None),
    )
    return first_failing(scores, [Limit(reason, *limit) for reason, limit in zip(REASONS, limits, strict=True)])


def measure(column: TextColumn, settings: GopherQualitySettings) -> Scores:
    """The `SCORES` of each document; NaN for a ratio to nothing, and for a rule that a document is exempt from."""
    stop_words = np.array([hash_text(word) for word in settings.stop_words], np.uint64)
    stop_keys, stop_stamps = new_table(len(stop_words))
    longest_stop_word = max((len(word) for word in settings.stop_words), default=0)
    words, lines = column.words, column.lines
    return Scores(
        SCORES,
        _gopher_quality(
            column.data, column.offsets, words.doc_offsets, words.hashes, words.num_chars, words.kinds,
            lines.doc_offsets, lines.starts, lines.ends, character_flags(), stop_words, stop_keys, stop_stamps,
            longest_stop_word,
        ),
    )  # fmt: skip


@numba.njit(cache=True)
def _gopher_quality(
    data_array, offsets, word_offsets, hashes, num_chars, kinds, line_offsets, line_starts, line_ends, flags_array,
    stop_words, stop_keys, stop_stamps, longest_stop_word,
):  # fmt: skip
    data, flags = pointer_to(data_array), pointer_to(flags_array)
    mask = np.uint64(stop_keys.size - 1)
    stop_keys_p, stop_stamps_p = pointer_to(stop_keys), pointer_to(stop_stamps)
    for stop_word in stop_words:
        insert(stop_keys_p, stop_stamps_p, mask, stop_word, 1)
    seen = np.full(stop_keys.size, -1, np.int64)  # the last document in which each stop word occurred

    scores_SD = np.full((_NUM_SCORES, offsets.size - 1), np.nan)
    for d in range(offsets.size - 1):
        first, last = word_offsets[d], word_offsets[d + 1]
        num_words = last - first
        num_textual = num_alpha = num_unspaced = textual_chars = num_stop_words = 0
        for w in range(first, last):
            kind = kinds[w]
            if kind & IS_SYMBOL == 0:
                num_textual += 1
                textual_chars += num_chars[w]
            if kind & HAS_ALPHA:
                num_alpha += 1
                num_unspaced += kind & IS_UNSPACED != 0
                if num_chars[w] <= longest_stop_word:
                    slot = find_slot(stop_keys_p, stop_stamps_p, mask, hashes[w], 1)
                    if stop_stamps[slot] == 1 and seen[slot] != d:
                        seen[slot] = d
                        num_stop_words += 1

        scores_SD[_NUM_WORDS, d] = num_textual
        if 2 * num_unspaced <= num_textual:
            scores_SD[_MEAN_WORD_LENGTH, d] = textual_chars / max(num_textual, 1)
            scores_SD[_NUM_STOP_WORDS, d] = num_stop_words
        if num_words == 0:
            continue
        num_hashes, num_ellipses = _count_symbols(data, offsets[d], offsets[d + 1])
        scores_SD[_HASHES_PER_WORD, d] = num_hashes / num_words
        scores_SD[_ELLIPSES_PER_WORD, d] = num_ellipses / num_words
        num_lines = line_offsets[d + 1] - line_offsets[d]
        bullets = ellipses = 0
        for line in range(line_offsets[d], line_offsets[d + 1]):
            bullets += _begins_with_bullet(data, line_starts[line], line_ends[line], flags)
            ellipses += _ends_with_ellipsis(data, line_starts[line], line_ends[line], flags)
        scores_SD[_BULLET_LINES, d] = bullets / num_lines
        scores_SD[_ELLIPSIS_LINES, d] = ellipses / num_lines
        scores_SD[_ALPHA_WORDS, d] = num_alpha / num_words
    return scores_SD


@numba.njit(cache=True)
def _count_symbols(data, start, end):
    """("#" characters, ellipses) in `data[start:end]`; "..." counts once per three dots."""
    num_hashes = candidates = 0
    for i in range(start, end - 2):  # vectorised: almost all texts have no candidate
        num_hashes += data[i] == _HASH
        candidates += (data[i] == _DOT) & (data[i + 1] == _DOT) & (data[i + 2] == _DOT)
        candidates += (data[i] == 0xE2) & (data[i + 1] == 0x80) & (data[i + 2] == 0xA6)
    for i in range(max(start, end - 2), end):
        num_hashes += data[i] == _HASH
    num_ellipses = 0
    i = start
    while candidates and i + 2 < end:
        dots = data[i] == _DOT and data[i + 1] == _DOT and data[i + 2] == _DOT
        if dots or (data[i] == 0xE2 and data[i + 1] == 0x80 and data[i + 2] == 0xA6):
            num_ellipses += 1
            i += 2
        i += 1
    return num_hashes, num_ellipses


@numba.njit(cache=True)
def _begins_with_bullet(data, start, end, flags):
    while start < end:
        code, width = decode(data, start, end)
        if flags_of(code, flags) & SPACE == 0:
            return code == _BULLET or code == _DASH
        start += width
    return False


@numba.njit(cache=True)
def _ends_with_ellipsis(data, start, end, flags):
    while end > start:
        at = previous_start(data, end, start)
        code, _ = decode(data, at, end)
        if flags_of(code, flags) & SPACE == 0:
            three_dots = end - start >= 3 and data[end - 1] == _DOT and data[end - 2] == _DOT and data[end - 3] == _DOT
            return code == _ELLIPSIS or three_dots
        end = at
    return False
