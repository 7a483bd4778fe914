"""C4's bad-words rule: a page with any word or phrase of a list goes.

Source: Raffel et al. 2020, section 2.2, and C4's published code; the share that is kept all the same is FineWeb's.
Entries count as whole words (`phrase_search.py`). Which documents are kept follows from a hash of their text, so it is
the same in every run and wherever they stand.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np

from cluster.contracts.errors import InputError
from dataprep.filters.phrase_search import PhraseTrie
from dataprep.filters.scores import Judged, Limit, Scores, first_failing
from dataprep.filters.settings import BadWordsSettings
from dataprep.filters.word_lists import read_word_lists
from dataprep.text.column import TextColumn
from dataprep.text.hashing import hash_bytes, mix, unit_interval
from dataprep.text.numba_pointers import pointer_to

NAME = "bad_words"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = ("num_bad_words",)
REASONS: tuple[str, ...] = ("bad_words",)


class BadWords:
    """The list of a spec, read once."""

    def __init__(self, words: Iterable[str]) -> None:
        self._trie = PhraseTrie.of(words)

    @classmethod
    def read(cls, settings: BadWordsSettings) -> BadWords:
        """The list that the settings name. Raises `InputError` where it is missing or has no entry."""
        words = read_word_lists(settings.files)
        if not words:
            raise InputError(f"bad_words: {', '.join(settings.files)} lists no words")
        return cls(words)

    def judge(self, column: TextColumn, settings: BadWordsSettings) -> Judged:
        """Count and judge each document."""
        scores = Scores(SCORES, self._trie.count(column)[None].astype(np.float64))
        codes_D = first_failing(scores, [Limit(REASONS[0], SCORES[0], most=settings.max_bad_words)])
        if settings.keep_fraction > 0:
            _spare(column.data, column.offsets, codes_D, settings.keep_fraction, np.uint64(settings.seed))
        return Judged(codes_D, REASONS, scores)


@numba.njit(cache=True)
def _spare(data_array, offsets, codes_D, fraction, seed):
    """Set the codes of about this share of the failing documents back to 0."""
    data = pointer_to(data_array)
    for d in range(codes_D.size):
        if codes_D[d] and unit_interval(mix(hash_bytes(data, offsets[d], offsets[d + 1]) + seed)) < fraction:
            codes_D[d] = 0
