"""C4's rules: lines are cut (policy notices, warnings of scripts, fragments), citations are cut out, pages are dropped.

Source: Raffel et al. 2020, section 2.2, and C4's published code, in datatrove's order. The kernel reads the words and
lines of the text as it was and answers with the spans that stay; `KeptSpans.edited` makes the new texts from them.
"""

from __future__ import annotations

import numba
import numpy as np

from dataprep.filters.config import C4Settings
from dataprep.filters.scores import Judged, Scores, at_least, at_most
from dataprep.text.characters import DIGIT, character_flags, decode, flags_of
from dataprep.text.column import TextColumn
from dataprep.text.edits import KeptSpans
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.word_rules import ABBREVIATION_HASHES
from dataprep.text.words import ENDS_SENTENCE, IS_PUNCTUATION, IS_UNSPACED, words_between

NAME = "c4"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = (
    "num_lines",
    "cut_lines_fraction",  # of lines that the line rules which are on cut
    "lorem_ipsum_lines",  # of the lines not cut until then
    "curly_bracket_lines",  # of the lines not cut until then
    "num_sentences",  # in the lines that are kept
)
_NUM_LINES, _CUT_LINES_FRACTION, _LOREM_IPSUM_LINES, _CURLY_BRACKET_LINES, _NUM_SENTENCES = range(len(SCORES))
REASONS: tuple[str, ...] = ("lorem_ipsum", "curly_bracket", "too_few_sentences")
_DROPPED_AS_LOREM_IPSUM, _DROPPED_AS_CURLY_BRACKET, _DROPPED_AS_TOO_FEW_SENTENCES = range(1, len(REASONS) + 1)
_NUM_SCORES = len(SCORES)

# What a line may hold, as bits: phrases of three categories, a curly bracket, and a bracket that may open a citation.
_LOREM_IPSUM, _JAVASCRIPT, _POLICY, _CURLY, _CITATION = 1, 2, 4, 8, 16
_OPEN_BRACKET, _CLOSE_BRACKET, _OPEN_CURLY = 0x5B, 0x5D, 0x7B
_EDIT = np.frombuffer(b"edit]", np.uint8)
_CITATION_NEEDED = np.frombuffer(b"citation needed]", np.uint8)


def c4(column: TextColumn, settings: C4Settings) -> Judged:
    """Judge each document, and find what stays of it. A document that is dropped stays whole.

    Raises `ValueError` for a policy phrase of one byte.
    """
    phrases = [("lorem ipsum", _LOREM_IPSUM)]
    if settings.cut_javascript_lines:
        phrases.append(("javascript", _JAVASCRIPT))
    phrases += [(phrase, _POLICY) for phrase in settings.policy_phrases]
    encoded = [_lower(phrase.encode()) for phrase, _ in phrases]
    if any(len(phrase) < 2 for phrase in encoded):
        raise ValueError(f"policy_phrases must have two bytes or more; got {settings.policy_phrases!r}")
    first_pairs = np.zeros(1 << 16, np.uint8)
    for phrase in encoded:
        first_pairs[phrase[0] << 8 | phrase[1]] = 1
    phrase_data = np.frombuffer(b"".join(encoded) or b"\0", np.uint8)
    phrase_offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    categories = np.array([category for _, category in phrases], np.int64)
    limits = np.array(
        [at_most(settings.max_word_length), at_least(settings.min_words_per_line), at_least(settings.min_num_sentences)]
    )
    switches = np.array(
        [
            settings.remove_citations,
            settings.require_terminal_punctuation,
            settings.drop_lorem_ipsum,
            settings.drop_curly_bracket,
        ],
        np.bool_,
    )
    words, lines = column.words, column.lines
    brackets = np.count_nonzero(column.data[column.offsets[0] : column.offsets[-1]] == _OPEN_BRACKET)
    most_spans = len(lines.starts) + brackets + len(column)
    spans = (np.empty(most_spans, np.int64), np.empty(most_spans, np.int64), np.empty(most_spans, np.bool_))
    room = int((lines.ends - lines.starts).max(initial=0)) if brackets else 0  # for a line with citations cut out
    scratch = [np.empty(room, dtype) for dtype in (np.uint8, np.int64, np.int64, np.uint64, np.int32, np.uint8)]
    codes_D, scores_SD, doc_offsets, starts, ends, begins_line, num_words_D = _c4(
        column.data, column.offsets, words.doc_offsets, words.starts, words.ends, words.num_chars, words.kinds,
        lines.doc_offsets, lines.starts, lines.ends, character_flags(), ABBREVIATION_HASHES,
        first_pairs, phrase_data, phrase_offsets, categories, limits, switches, *spans, *scratch,
    )  # fmt: skip
    kept = KeptSpans(doc_offsets, starts, ends, begins_line, codes_D > 0, num_words_D)
    return Judged(codes_D, REASONS, Scores(SCORES, scores_SD), kept)


def _lower(phrase: bytes) -> bytes:
    return bytes(byte + 32 if 0x41 <= byte <= 0x5A else byte for byte in phrase)


@numba.njit(cache=True)
def _c4(
    data_array, offsets, word_offsets, word_starts, word_ends, word_chars, word_kinds, line_offsets, line_starts,
    line_ends, flags_array, abbreviation_array, first_pairs_array, phrase_data_array, phrase_offsets_array, categories,
    limits, switches, keep_starts, keep_ends, begins_line, scratch_array, scratch_starts, scratch_ends,
    scratch_hashes, scratch_chars, scratch_kinds,
):  # fmt: skip
    # One long function for speed's sake: all rules are applied in one pass over words and lines, and what they share
    # (where the line is, what it holds, the counts so far) stays in registers.
    data, flags, abbreviations = pointer_to(data_array), pointer_to(flags_array), pointer_to(abbreviation_array)
    starts_of_words, ends_of_words = pointer_to(word_starts), pointer_to(word_ends)
    chars_of_words, kinds_of_words = pointer_to(word_chars), pointer_to(word_kinds)
    phrases = (
        pointer_to(first_pairs_array), pointer_to(phrase_data_array), pointer_to(phrase_offsets_array),
        pointer_to(categories), categories.size,
    )  # fmt: skip
    max_word_length, min_words, min_sentences = limits
    remove_citations, require_terminal, drop_lorem_ipsum, drop_curly = switches
    num_documents = offsets.size - 1

    scratch = pointer_to(scratch_array)
    scratch_columns = (
        pointer_to(scratch_starts), pointer_to(scratch_ends), pointer_to(scratch_hashes), pointer_to(scratch_chars),
        pointer_to(scratch_kinds),
    )  # fmt: skip
    keep_starts_p, keep_ends_p = pointer_to(keep_starts), pointer_to(keep_ends)
    reasons = np.zeros(num_documents, np.uint8)
    scores_SD = np.zeros((_NUM_SCORES, num_documents))
    doc_offsets = np.zeros(num_documents + 1, np.int64)
    word_counts = np.zeros(num_documents, np.int64)
    n = 0
    for d in range(num_documents):
        first_span = n
        sentences = kept_words = kept_lines = lorem_ipsum_lines = curly_lines = 0
        word = word_offsets[d]
        last_word = word_offsets[d + 1]
        for line in range(line_offsets[d], line_offsets[d + 1]):
            first = word
            while word < last_word and starts_of_words[word] < line_ends[line]:
                word += 1
            start, end = line_starts[line], line_starts[line]
            if first < word:
                start, end = starts_of_words[first], ends_of_words[word - 1]  # the line, stripped
            spaced_words, longest = _spaced_words(
                starts_of_words, ends_of_words, chars_of_words, kinds_of_words, first, word
            )
            if longest > max_word_length:
                continue
            found = _find_phrases(data, start, end, phrases)
            text, text_start, text_end = data, start, end
            is_cut = False
            spans = n
            keep_starts[n], keep_ends[n] = start, end
            if remove_citations and found & _CITATION:
                spans, cut_length = _cut_citations(data, start, end, flags, keep_starts_p, keep_ends_p, n, scratch)
                is_cut = cut_length < end - start
                if is_cut:
                    text, text_start, text_end = scratch, 0, cut_length
                    found = _find_phrases(text, text_start, text_end, phrases)
            if require_terminal and not _ends_in_terminal(text, text_start, text_end):
                continue
            if spaced_words < min_words:
                continue
            if found & _LOREM_IPSUM:
                lorem_ipsum_lines += 1
                if drop_lorem_ipsum and reasons[d] == 0:
                    reasons[d] = _DROPPED_AS_LOREM_IPSUM
            if found & _JAVASCRIPT:
                continue
            if found & _CURLY:
                curly_lines += 1
                if drop_curly and reasons[d] == 0:
                    reasons[d] = _DROPPED_AS_CURLY_BRACKET
            if found & _POLICY:
                continue
            if not is_cut:
                num_words = word - first
                sentences += _count_sentences(kinds_of_words, first, word)
            else:
                _, num_words, _ = words_between(
                    text, 0, text_end, flags, abbreviations, scratch_columns, scratch_array.size, 0
                )
                sentences += _count_sentences(scratch_columns[4], 0, num_words)
            kept_words += num_words
            kept_lines += 1
            for span in range(n, spans + 1):
                begins_line[span] = span == n
            n = spans + 1
        num_lines = line_offsets[d + 1] - line_offsets[d]
        scores_SD[_NUM_LINES, d] = num_lines
        scores_SD[_CUT_LINES_FRACTION, d] = (num_lines - kept_lines) / num_lines if num_lines else np.nan
        scores_SD[_LOREM_IPSUM_LINES, d] = lorem_ipsum_lines
        scores_SD[_CURLY_BRACKET_LINES, d] = curly_lines
        scores_SD[_NUM_SENTENCES, d] = sentences
        if reasons[d] == 0 and sentences < min_sentences:
            reasons[d] = _DROPPED_AS_TOO_FEW_SENTENCES
        if reasons[d]:
            n = first_span
            kept_words = last_word - word_offsets[d]
        word_counts[d] = kept_words
        doc_offsets[d + 1] = n
    return reasons, scores_SD, doc_offsets, keep_starts[:n], keep_ends[:n], begins_line[:n], word_counts


@numba.njit(cache=True)
def _spaced_words(starts, ends, chars, kinds, first, last):
    """(how many spaced words the words first:last of a line make, code points of the longest of them).

    In scripts without spaces each letter counts as one (`dataprep.text.words`, rule 6).
    """
    count = longest = length = 0
    for w in range(first, last):
        is_apart = kinds[w] & IS_UNSPACED or (w > first and kinds[w - 1] & IS_UNSPACED)
        if w == first or ends[w - 1] != starts[w] or is_apart:
            count += 1
            length = 0
        length += chars[w]
        longest = max(longest, length)
    return count, longest


@numba.njit(cache=True)
def _find_phrases(data, start, end, phrases):
    """What `data[start:end]` holds, as bits: the categories of the phrases in it, and whether "{" and "[" occur."""
    first_pairs, phrase_data, phrase_offsets, categories, num_phrases = phrases
    found = 0
    previous = np.int64(0)
    for i in range(start, end):
        byte = np.int64(data[i])
        if 0x41 <= byte <= 0x5A:
            byte += 32
        if first_pairs[previous << 8 | byte]:
            for phrase in range(num_phrases):
                begin = phrase_offsets[phrase]
                length = phrase_offsets[phrase + 1] - begin
                if i - 1 + length > end or i == start:
                    continue
                k = 0
                while k < length:
                    other = np.int64(data[i - 1 + k])
                    if 0x41 <= other <= 0x5A:
                        other += 32
                    if other != phrase_data[begin + k]:
                        break
                    k += 1
                if k == length:
                    found |= categories[phrase]
        elif byte == _OPEN_CURLY:
            found |= _CURLY
        elif byte == _OPEN_BRACKET:
            found |= _CITATION
        previous = byte
    return found


@numba.njit(cache=True)
def _cut_citations(data, start, end, flags, keep_starts, keep_ends, n, scratch):
    """Write what stays of `data[start:end]` without citations: as spans from index `n` on, and as text into `scratch`.

    Returns (the index of the last span, the bytes of the text). Of a line of nothing but citations stays an empty span.
    """
    length = 0
    first = n
    begin = i = start
    while i < end:
        width = _citation_width(data, i, end, flags) if data[i] == _OPEN_BRACKET else 0
        if width:
            if begin < i:
                keep_starts[n], keep_ends[n] = begin, i
                n += 1
            i += width
            begin = i
            continue
        scratch[length] = data[i]
        length += 1
        i += 1
    if begin < end or n == first:
        keep_starts[n], keep_ends[n] = begin, end
        n += 1
    return n - 1, length


@numba.njit(cache=True)
def _citation_width(data, i, end, flags):
    """The bytes of a citation at byte `i` ("[12]", "[]", "[edit]" or "[citation needed]"), or 0."""
    k = i + 1
    while k < end:
        code, width = decode(data, k, end)
        if flags_of(code, flags) & DIGIT == 0:
            break
        k += width
    if k < end and data[k] == _CLOSE_BRACKET:
        return k + 1 - i
    for word in (_EDIT, _CITATION_NEEDED):
        if i + 1 + word.size <= end:
            k = 0
            while k < word.size and data[i + 1 + k] == word[k]:
                k += 1
            if k == word.size:
                return 1 + word.size
    return 0


@numba.njit(cache=True)
def _ends_in_terminal(data, start, end):
    """Whether the text ends in . ? ! " or ', but not in "..."."""
    if start == end or data[end - 1] not in (0x2E, 0x3F, 0x21, 0x22, 0x27):
        return False
    return not (end - start >= 3 and data[end - 1] == 0x2E and data[end - 2] == 0x2E and data[end - 3] == 0x2E)


@numba.njit(cache=True)
def _count_sentences(kinds, first, last):
    """The sentences of a line: one, and one more for each end of a sentence with a word, not punctuation, behind."""
    count = 1
    ended = False
    for w in range(first, last):
        kind = kinds[w]
        if kind & ENDS_SENTENCE:
            ended = True
        elif ended and kind & IS_PUNCTUATION == 0:
            count += 1
            ended = False
    return count
