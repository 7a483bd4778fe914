"""FineWeb's own quality rules: on punctuated lines, short lines, repeated lines and line breaks per word.

Source: Penedo et al. 2024, arXiv:2406.17557, section 3.6, in datatrove's order. Blank lines do not count as lines.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from dataprep.filters.config import FineWebSettings
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.text.characters import SENTENCE_END, SPACE, character_flags, decode, flags_of, previous_start
from dataprep.text.column import TextColumn
from dataprep.text.hash_table import insert, new_table, table_mask
from dataprep.text.numba_pointers import pointer_to

NAME = "fineweb"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = (
    "num_lines",
    "punctuated_lines_fraction",
    "short_lines_fraction",
    "duplicate_line_char_fraction",
    "newlines_per_word",
)
_NUM_LINES, _PUNCTUATED, _SHORT, _DUPLICATE_CHARS, _NEWLINES_PER_WORD = range(len(SCORES))
_NUM_SCORES = len(SCORES)
REASONS: tuple[str, ...] = ("fineweb_empty", "line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio")


def fineweb(column: TextColumn, settings: FineWebSettings) -> Judged:
    """Measure and judge each document."""
    scores = measure(column, settings)
    return Judged(decide(scores, settings), REASONS, scores)


def decide(scores: Scores, settings: FineWebSettings) -> npt.NDArray[np.uint8]:
    """[D] 0 for keep, else 1 + the index into `REASONS` of the first rule that fails."""
    punctuated_D = scores["punctuated_lines_fraction"]
    if settings.keep_unpunctuated:
        scores = scores.replaced("punctuated_lines_fraction", np.where(punctuated_D == 0, np.nan, punctuated_D))
    limits = (
        ("num_lines", 1, None),
        ("punctuated_lines_fraction", settings.min_punctuated_lines_fraction, None),
        ("short_lines_fraction", None, settings.max_short_lines_fraction),
        ("duplicate_line_char_fraction", None, settings.max_duplicate_line_char_fraction),
        ("newlines_per_word", None, settings.max_newlines_per_word),
    )
    return first_failing(scores, [Limit(reason, *limit) for reason, limit in zip(REASONS, limits, strict=True)])


def measure(column: TextColumn, settings: FineWebSettings) -> Scores:
    """The `SCORES` of each document. Where all lines are blank, all but the number of lines are NaN."""
    lines = column.lines
    keys, stamps = new_table(int(lines.counts_D().max(initial=0)))
    return Scores(
        SCORES,
        _fineweb(
            column.data, column.offsets, column.num_words_D, lines.doc_offsets, lines.starts, lines.ends,
            lines.hashes, lines.num_chars, character_flags(), settings.short_line_length, keys, stamps,
        ),
    )  # fmt: skip


@numba.njit(cache=True)
def _fineweb(
    data_array, offsets, word_counts, line_offsets, line_starts, line_ends, line_hashes, line_chars, flags_array,
    short_line_length, keys_array, stamps_array,
):  # fmt: skip
    data, flags = pointer_to(data_array), pointer_to(flags_array)
    num_documents = offsets.size - 1
    keys, stamps = pointer_to(keys_array), pointer_to(stamps_array)

    scores_SD = np.full((_NUM_SCORES, num_documents), np.nan)
    for d in range(num_documents):
        first, last = line_offsets[d], line_offsets[d + 1]
        mask = table_mask(last - first)
        lines = punctuated = short = num_chars = duplicate_chars = 0
        for line in range(first, last):
            num_chars += line_chars[line]
            start, end = line_starts[line], line_ends[line]
            if _is_blank(data, start, end, flags):
                continue
            lines += 1
            last_code, _ = decode(data, previous_start(data, end, start), end)
            punctuated += flags_of(last_code, flags) & SENTENCE_END != 0
            short += line_chars[line] <= short_line_length
            if not insert(keys, stamps, mask, line_hashes[line], d + 1):
                duplicate_chars += line_chars[line]
        scores_SD[_NUM_LINES, d] = lines
        if lines == 0:
            continue
        newlines = last - first - (line_ends[last - 1] == offsets[d + 1])
        scores_SD[_PUNCTUATED, d] = punctuated / lines
        scores_SD[_SHORT, d] = short / lines
        scores_SD[_DUPLICATE_CHARS, d] = duplicate_chars / num_chars
        scores_SD[_NEWLINES_PER_WORD, d] = newlines / word_counts[d]
    return scores_SD


@numba.njit(cache=True)
def _is_blank(data, start, end, flags):
    while start < end:
        code, width = decode(data, start, end)
        if flags_of(code, flags) & SPACE == 0:
            return False
        start += width
    return True
