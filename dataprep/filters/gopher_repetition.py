"""Gopher's repetition rules: on repeated paragraphs, lines and n-grams of words, by their number and characters.

Source: Rae et al. 2021, arXiv:2112.11446, table A1, in datatrove's order. An n-gram can only occur twice where the two
(n-1)-grams in it do. So each n looks only at the positions that the one before left over, which in ordinary text are
almost none from n = 5 on: one pass for n = 2 to 10 costs little more than n = 2 alone.

In a document most of whose words are letters of scripts without spaces, an n-gram is one of 2n letters: words of
Chinese and Japanese have about two, and five letters in a row recur in any text on one subject.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from dataprep.filters.config import GopherRepetitionSettings
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.text.characters import SPACE, character_flags, decode, flags_of, previous_start
from dataprep.text.column import TextColumn
from dataprep.text.hash_table import find_slot, insert, new_table, table_mask
from dataprep.text.hashing import NGRAM_BASE, hash_bytes, mix
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.words import IS_UNSPACED

_TOP_SIZES, _DUPLICATE_SIZES = range(2, 5), range(5, 11)
NAME = "gopher_repetition"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = (
    "num_characters",
    "duplicate_paragraph_fraction",
    "duplicate_paragraph_char_fraction",
    "duplicate_line_fraction",
    "duplicate_line_char_fraction",
    *(f"top_{n}_gram_char_fraction" for n in _TOP_SIZES),
    *(f"duplicate_{n}_gram_char_fraction" for n in _DUPLICATE_SIZES),
)
REASONS: tuple[str, ...] = (
    "gopher_repetition_empty",
    "dup_para_frac",
    "dup_para_char_frac",
    "dup_line_frac",
    "dup_line_char_frac",
    *(f"top_{n}_gram" for n in _TOP_SIZES),
    *(f"duplicated_{n}_n_grams" for n in _DUPLICATE_SIZES),
)
_LAST_TOP, _LAST_DUPLICATE = _TOP_SIZES[-1], _DUPLICATE_SIZES[-1]
_NUM_CHARACTERS, _DUPLICATE_PARAGRAPHS, _DUPLICATE_PARAGRAPH_CHARS, _DUPLICATE_LINES, _DUPLICATE_LINE_CHARS = range(5)
_SCORE_OF_2_GRAMS = SCORES.index("top_2_gram_char_fraction")  # that of n-grams is n - 2 rows further down
_NUM_SCORES = len(SCORES)
LETTERS_PER_WORD = 2  # in scripts without spaces, about


def gopher_repetition(column: TextColumn, settings: GopherRepetitionSettings) -> Judged:
    """Measure and judge each document."""
    scores = measure(column)
    return Judged(decide(scores, settings), REASONS, scores)


def decide(scores: Scores, settings: GopherRepetitionSettings) -> npt.NDArray[np.uint8]:
    """[D] 0 for keep, else 1 + the index into `REASONS` of the first rule that fails."""
    by_size = {**settings.max_top_ngram_char_fraction, **settings.max_duplicate_ngram_char_fraction}
    upper = (
        settings.max_duplicate_paragraph_fraction,
        settings.max_duplicate_paragraph_char_fraction,
        settings.max_duplicate_line_fraction,
        settings.max_duplicate_line_char_fraction,
        *(by_size.get(n) for n in (*_TOP_SIZES, *_DUPLICATE_SIZES)),
    )
    rules = zip(REASONS[1:], SCORES[1:], upper, strict=True)
    limits = [Limit(reason, score, most=most) for reason, score, most in rules]
    return first_failing(scores, [Limit(REASONS[0], SCORES[0], least=1), *limits])


def measure(column: TextColumn) -> Scores:
    """The `SCORES` of each document. Of an empty one, all but the number of characters are NaN."""
    words, lines = column.words, column.lines
    most = int(max(words.counts_D().max(initial=0), lines.counts_D().max(initial=0))) + 1
    scratch = (
        *new_table(most),
        np.empty(most + 1, np.int64),  # positions
        np.empty(most + 1, np.int64),  # prefix sums
        np.empty(most + 1, np.uint64),  # slots
        np.empty(most + 1, np.uint64),  # grams
    )
    counts = np.empty(len(scratch[0]), np.int32)
    return Scores(
        SCORES,
        _gopher_repetition(
            column.data, column.offsets, column.num_chars_D, words.doc_offsets, words.hashes, words.num_chars,
            words.kinds, lines.doc_offsets, lines.starts, lines.ends, lines.hashes, lines.num_chars, character_flags(),
            *scratch, counts,
        ),
    )  # fmt: skip


@numba.njit(cache=True)
def _gopher_repetition(
    data_array, offsets, doc_chars, word_offsets, word_hashes, word_chars, word_kinds, line_offsets, line_starts,
    line_ends, line_hashes, line_chars, flags_array, keys_array, stamps_array, positions_array, prefix_array,
    slots_array, grams_array, counts_array,
):  # fmt: skip
    data, flags = pointer_to(data_array), pointer_to(flags_array)
    num_documents = offsets.size - 1
    keys, stamps, counts = pointer_to(keys_array), pointer_to(stamps_array), pointer_to(counts_array)
    positions, slots = pointer_to(positions_array), pointer_to(slots_array)
    grams, prefix = pointer_to(grams_array), pointer_to(prefix_array)
    all_line_starts, all_line_ends = pointer_to(line_starts), pointer_to(line_ends)
    all_line_hashes, all_line_chars = pointer_to(line_hashes), pointer_to(line_chars)
    all_word_hashes = pointer_to(word_hashes)

    scores_SD = np.full((_NUM_SCORES, num_documents), np.nan)
    stamp = 0
    for d in range(num_documents):
        num_chars = doc_chars[d]
        scores_SD[_NUM_CHARACTERS, d] = num_chars
        if num_chars == 0:
            continue
        first, last = line_offsets[d], line_offsets[d + 1]
        paragraphs, duplicates, duplicate_chars = _duplicate_paragraphs(
            data, all_line_starts, all_line_ends, all_line_hashes, all_line_chars, first, last, flags,
            keys, stamps, stamp + 1,
        )  # fmt: skip
        scores_SD[_DUPLICATE_PARAGRAPHS, d] = duplicates / paragraphs
        scores_SD[_DUPLICATE_PARAGRAPH_CHARS, d] = duplicate_chars / num_chars
        lines, duplicates, duplicate_chars = _duplicate_lines(
            all_line_starts, all_line_ends, all_line_hashes, all_line_chars, first, last, offsets[d + 1],
            keys, stamps, stamp + 2,
        )  # fmt: skip
        scores_SD[_DUPLICATE_LINES, d] = duplicates / lines
        scores_SD[_DUPLICATE_LINE_CHARS, d] = duplicate_chars / num_chars
        first = word_offsets[d]
        num_words = word_offsets[d + 1] - first
        prefix[0] = 0
        num_unspaced = 0
        for w in range(num_words):
            prefix[w + 1] = prefix[w] + word_chars[first + w]
            num_unspaced += word_kinds[first + w] & IS_UNSPACED != 0
        stamp += 2
        unit = LETTERS_PER_WORD if 2 * num_unspaced > num_words else 1
        _repeated_ngrams(
            all_word_hashes, first, num_words, num_chars, prefix, keys, stamps, counts, positions, slots, grams,
            stamp, unit, scores_SD, d,
        )  # fmt: skip
        stamp += _LAST_DUPLICATE * LETTERS_PER_WORD
    return scores_SD


@numba.njit(cache=True)
def _duplicate_paragraphs(data, starts, ends, hashes, chars, first, last, flags, keys, stamps, stamp):
    """(number of paragraphs, how many of these occurred before, characters in those).

    Paragraphs are parted by empty lines. White space at either end of the document does not count.
    """
    while first < last and _skip_space(data, starts[first], ends[first], flags) == ends[first]:
        first += 1
    while last > first and _skip_space(data, starts[last - 1], ends[last - 1], flags) == ends[last - 1]:
        last -= 1
    mask = table_mask(last - first)
    paragraphs = duplicates = duplicate_chars = 0
    line = first
    while line < last:
        if starts[line] == ends[line]:
            line += 1
            continue
        h, length = np.uint64(0), -1
        while line < last and starts[line] < ends[line]:
            line_hash, line_length = hashes[line], np.int64(chars[line])
            if line == first or line == last - 1:
                start, end = starts[line], ends[line]
                if line == first:
                    start = _skip_space(data, start, end, flags)
                if line == last - 1:
                    end = _skip_space_back(data, start, end, flags)
                line_hash = hash_bytes(data, start, end)
                for i in range(starts[line], start):
                    line_length -= data[i] & 0xC0 != 0x80
                for i in range(end, ends[line]):
                    line_length -= data[i] & 0xC0 != 0x80
            h = h * NGRAM_BASE + line_hash
            length += line_length + 1
            line += 1
        paragraphs += 1
        if not insert(keys, stamps, mask, mix(h), stamp):
            duplicates += 1
            duplicate_chars += length
    return max(paragraphs, 1), duplicates, duplicate_chars


@numba.njit(cache=True)
def _duplicate_lines(starts, ends, hashes, chars, first, last, stop, keys, stamps, stamp):
    """(number of lines, how many of these occurred before, characters in those), without empty lines.

    A line break at either end of the document counts as one empty line, as it would in splitting at runs of breaks.
    """
    mask = table_mask(last - first)
    leading = 1 if first < last and starts[first] == ends[first] else 0
    trailing = 1 if first < last and ends[last - 1] < stop else 0
    lines = leading + trailing
    duplicates, duplicate_chars = leading & trailing, 0
    for line in range(first, last):
        if starts[line] == ends[line]:
            continue
        lines += 1
        if not insert(keys, stamps, mask, hashes[line], stamp):
            duplicates += 1
            duplicate_chars += chars[line]
    return max(lines, 1), duplicates, duplicate_chars


@numba.njit(cache=True)
def _repeated_ngrams(
    hashes,
    first,
    num_words,
    num_chars,
    prefix,
    keys,
    stamps,
    counts,
    positions,
    slots,
    grams,
    stamp,
    unit,
    scores_SD,
    d,
):
    """Write the scores of all n-gram rules of document `d`; a word of the rules is `unit` words of the document.

    `positions` are the places, in order, where an n-gram that occurs twice can still begin. `grams[p]` is the
    polynomial hash of the n words from place p on, and `slots` has the table's slot of each position's n-gram.
    """
    for n in range(2, _LAST_DUPLICATE + 1):
        scores_SD[_SCORE_OF_2_GRAMS + n - 2, d] = 0.0
    num_positions = num_words
    for p in range(num_words):
        positions[p] = p
        grams[p] = hashes[first + p]
    for n in range(2, _LAST_DUPLICATE * unit + 1):
        if num_words < n:
            return
        size = n // unit if n % unit == 0 else 0  # in words; 0: of no rule
        while num_positions > 0 and positions[num_positions - 1] + n > num_words:
            num_positions -= 1
        stamp += 1
        mask = table_mask(num_positions)
        most, best = 1, 0
        for k in range(num_positions):
            p = positions[k]
            grams[p] = grams[p] * NGRAM_BASE + hashes[first + p + n - 1]
            key = mix(grams[p])
            slot = find_slot(keys, stamps, mask, key, stamp)
            if stamps[slot] == stamp:
                counts[slot] += 1
                most = max(most, counts[slot])
            else:
                keys[slot], stamps[slot], counts[slot] = key, stamp, 1
            slots[k] = slot
        if 2 <= size <= _LAST_TOP:
            if most > 1:  # of equally frequent n-grams, the one that came first
                k = 0
                while counts[slots[k]] < most:
                    k += 1
                best = positions[k]
            length = prefix[best + n] - prefix[best] + (n - 1 if unit == 1 else 0)  # with the spaces between
            scores_SD[_SCORE_OF_2_GRAMS + size - 2, d] = length * most / num_chars
        elif size > _LAST_TOP and most > 1:
            duplicate_chars = _duplicate_chars(n, num_positions, prefix, counts, positions, slots)
            scores_SD[_SCORE_OF_2_GRAMS + size - 2, d] = duplicate_chars / num_chars
        if most == 1:
            num_positions = 0
        left = 0
        for k in range(num_positions - 1):
            p = positions[k]
            if positions[k + 1] == p + 1 and counts[slots[k]] != 1 and counts[slots[k + 1]] != 1:
                positions[left] = p
                left += 1
        num_positions = left


@numba.njit(cache=True)
def _duplicate_chars(n, num_positions, prefix, counts, positions, slots):
    """Characters in n-grams that occurred before, read from left to right; each one found is stepped over.

    An n-gram that was met for the first time is marked by making its count negative.
    """
    total = 0
    following = 0
    for k in range(num_positions):
        slot, p = slots[k], positions[k]
        if p < following or counts[slot] == 1:
            continue
        if counts[slot] < 0:
            total += prefix[p + n] - prefix[p]
            following = p + n
        else:
            counts[slot] = -counts[slot]
    return total


@numba.njit(cache=True)
def _skip_space(data, start, end, flags):
    """The first byte of `data[start:end]` that is no white space, or `end`."""
    while start < end:
        code, width = decode(data, start, end)
        if flags_of(code, flags) & SPACE == 0:
            return start
        start += width
    return end


@numba.njit(cache=True)
def _skip_space_back(data, start, end, flags):
    """One past the last byte of `data[start:end]` that is no white space, or `start`."""
    while end > start:
        at = previous_start(data, end, start)
        if flags_of(decode(data, at, end)[0], flags) & SPACE == 0:
            return end
        end = at
    return start
