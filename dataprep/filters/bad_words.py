"""C4's rule on bad words: a page with any word or phrase of a list is dropped.

Source: Raffel et al. 2020, section 2.2, and C4's published code. As in FineWeb, a share of such pages may be kept:
which ones follows from a hash of their text, so it is the same in every run and wherever a page stands. Entries of the
list count as whole words only (`phrase_search.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np

from cluster.contracts.errors import InputError
from dataprep.filters.config import BadWordsSettings
from dataprep.filters.phrase_search import PhraseTrie
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.filters.word_lists import read_word_lists
from dataprep.text.column import TextColumn
from dataprep.text.hashing import hash_bytes, mix, unit_interval
from dataprep.text.numba_pointers import pointer_to

NAME = "bad_words"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = ("num_bad_words",)
REASONS: tuple[str, ...] = ("bad_words",)


class BadWords:
    """The rule with the list that it looks for, which is read once."""

    def __init__(self, words: Iterable[str]) -> None:
        self._trie = PhraseTrie.of(words)

    @classmethod
    def read(cls, settings: BadWordsSettings) -> BadWords:
        """The rule with the list that the settings name. Raises `InputError` for a missing file and an empty list."""
        words = read_word_lists(settings.files)
        if not words:
            raise InputError(f"bad_words: {', '.join(settings.files)} lists no words")
        return cls(words)

    def judge(self, column: TextColumn, settings: BadWordsSettings) -> Judged:
        """Judge each document by how many entries of the list it has."""
        scores = Scores(SCORES, self._trie.count(column)[None].astype(np.float64))
        codes_D = first_failing(scores, [Limit(REASONS[0], SCORES[0], most=settings.max_bad_words)])
        if settings.keep_fraction > 0:
            _spare(column.data, column.offsets, codes_D, settings.keep_fraction, np.uint64(settings.seed))
        return Judged(codes_D, REASONS, scores)


@numba.njit(cache=True)
def _spare(data_array, offsets, codes_D, fraction, seed):
    """Keep about this fraction of the documents that fail, by setting their codes back to 0."""
    data = pointer_to(data_array)
    for d in range(codes_D.size):
        if codes_D[d] and unit_interval(mix(hash_bytes(data, offsets[d], offsets[d + 1]) + seed)) < fraction:
            codes_D[d] = 0
