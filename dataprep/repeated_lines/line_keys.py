"""Keys of lines: lines that say the same have the same key. And what stays of documents when lines are cut.

The key of a line is a 64-bit hash of its terms (`dataprep.text.match_terms`): runs of letters and numbers in lower
case, without accents and punctuation, each number as "0". That is close to CCNet's normal form of a paragraph (Wenzek
et al. 2019, arXiv:1911.00359, section 3.1), in which each digit is a "0" and punctuation is deleted instead of parting
words.

Shape letters: D documents, L lines of them, S spans that stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from cluster.contracts.hashing import mix64
from dataprep.signatures.url import site
from dataprep.text.column import TextColumn
from dataprep.text.edits import KeptSpans
from dataprep.text.hashing import NGRAM_BASE, hash_text, mix

NO_KEY = np.uint64(0)  # stands for the key of a line that is left alone


def line_keys(column: TextColumn, *, min_characters: int = 0) -> npt.NDArray[np.uint64]:
    """[L] the key of each line; `NO_KEY` for one without terms, and one of fewer than `min_characters`."""
    lines, terms = column.lines, column.terms
    return _line_keys(lines.starts, lines.ends, lines.num_chars, terms.starts, terms.hashes, min_characters)


def site_keys(keys_L: npt.NDArray[np.uint64], sites_L: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """[L] keys that are equal where both the lines and the sites they are on are."""
    return np.where(keys_L == NO_KEY, NO_KEY, mix64(keys_L ^ mix64(sites_L)))


def site_hashes(urls: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """[D] a hash of each URL's site; documents without a URL are of one site."""
    return np.array([hash_text(site(url or "")) for url in urls], np.uint64)


def is_among(keys_L: npt.NDArray[np.uint64], listed: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """[L] whether each key is in `listed`, which is sorted. `NO_KEY` never counts as listed."""
    if len(listed) == 0:
        return np.zeros(len(keys_L), bool)
    places = np.minimum(np.searchsorted(listed, keys_L), len(listed) - 1)
    return (listed[places] == keys_L) & (keys_L != NO_KEY)


def listed_among(own: npt.NDArray[np.uint64], listed: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Those of the keys `own` that are in `listed`; both are sorted. Keys beyond the ends of `listed` cost nothing."""
    if len(listed) == 0:
        return own[:0]
    begin, end = np.searchsorted(own, listed[0]), np.searchsorted(own, listed[-1], side="right")
    within = own[begin:end]
    return within[is_among(within, listed)]


def without_lines(column: TextColumn, cut_L: npt.NDArray[np.bool_]) -> KeptSpans:
    """What stays of each document without the lines in `cut_L`.

    Blank lines that come together by a cut become one; all others stay.
    """
    lines = column.lines
    spans = _kept_lines(lines.doc_offsets, lines.starts, lines.ends, lines.num_chars, cut_L)
    return KeptSpans(*spans)


def sums_D(values_L: npt.NDArray[np.int64], doc_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[D] the sum over each document's lines."""
    return np.diff(np.concatenate([[0], np.cumsum(values_L)])[doc_offsets])


@numba.njit(cache=True)
def _line_keys(starts, ends, num_chars, term_starts, term_hashes, min_characters):
    """The positions of lines and of terms ascend, and no term reaches beyond its line."""
    keys = np.zeros(starts.size, np.uint64)
    term = 0
    for line in range(starts.size):
        first = term
        h = np.uint64(0)
        while term < term_starts.size and term_starts[term] < ends[line]:
            h = h * NGRAM_BASE + term_hashes[term]
            term += 1
        if term > first and num_chars[line] >= min_characters:
            keys[line] = max(mix(h), np.uint64(1))
    return keys


@numba.njit(cache=True)
def _kept_lines(doc_offsets, line_starts, line_ends, num_chars, cut):
    """(offsets [D+1], starts [S], ends [S], begins_line [S], whole [D]); see `KeptSpans`."""
    num_documents = doc_offsets.size - 1
    kept_offsets = np.zeros(num_documents + 1, np.int64)
    starts, ends = np.empty(line_starts.size, np.int64), np.empty(line_starts.size, np.int64)
    whole = np.ones(num_documents, np.bool_)
    n = 0
    for d in range(num_documents):
        after_cut = False  # since the last line with characters
        after_blank = True
        for line in range(doc_offsets[d], doc_offsets[d + 1]):
            if cut[line]:
                whole[d] = False
                after_cut = True
                continue
            blank = num_chars[line] == 0
            if blank and after_cut and after_blank:
                continue
            if not blank:
                after_cut = False
            after_blank = blank
            starts[n], ends[n] = line_starts[line], line_ends[line]
            n += 1
        kept_offsets[d + 1] = n
    return kept_offsets, starts[:n], ends[:n], np.ones(n, np.bool_), whole
