"""Finds passages of evaluation sets in training documents, by n-grams of terms that both have.

Source: Brown et al. 2020, arXiv:2005.14165, appendix C, which takes 13 words in lower case without punctuation. Terms
(`dataprep.text.match_terms`) are also without accents, and all numbers are alike. An evaluation text of fewer terms is
looked for as a whole, if it has `min_terms`. Shorter ones would be found everywhere and are left out; so are n-grams
with more numbers than words, since any list of numbers would match them.

N-grams are compared by rolling 64-bit hashes. With 10^6 of them in the index and 10^12 in the corpus, about 0.05
documents are hit by chance. A table with a few bits for each n-gram rules out almost all others, so the hash table is
hardly ever read.

Shape letters: D documents, G n-grams of the evaluation sets, H hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.contracts.errors import InputError
from dataprep.filters.config import DecontaminationSettings
from dataprep.filters.evaluation_sets import EvaluationText, read_evaluation_sets
from dataprep.filters.scores import Scores
from dataprep.text.column import TextColumn
from dataprep.text.edits import KeptSpans
from dataprep.text.hash_table import find_slot, insert, new_table
from dataprep.text.hashing import NGRAM_BASE, mix
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import HashedSpans, Spans

NAME = "decontamination"  # of the family, in a spec and as a column of scores
SCORES: tuple[str, ...] = ("num_passages", "passage_characters_fraction")


@dataclass(frozen=True)
class Hits(Spans):
    """The passages that documents share with evaluation texts; n-grams that overlap are one passage."""

    texts: npt.NDArray[np.int32]  # [H] the number of the evaluation text that its first n-gram is from

    def scores(self, column: TextColumn) -> Scores:
        """How many passages each document has, and which fraction of its bytes is in them."""
        lengths = np.concatenate([[0], np.cumsum(self.ends - self.starts)])[self.doc_offsets]
        sizes = np.maximum(np.diff(column.offsets), 1)
        return Scores(SCORES, np.stack([self.counts_D(), np.diff(lengths) / sizes]).astype(np.float64))

    def without(self, column: TextColumn) -> KeptSpans:
        """What stays of each document when the passages are cut out."""
        num_documents = len(column)
        kept_offsets = self.doc_offsets + np.arange(num_documents + 1)
        starts = np.insert(self.ends, self.doc_offsets[:-1], column.offsets[:-1])
        ends = np.insert(self.starts, self.doc_offsets[1:], column.offsets[1:])
        return KeptSpans(kept_offsets, starts, ends, np.zeros(len(starts), np.bool_), self.counts_D() == 0)


def items_left_out(settings: DecontaminationSettings) -> dict[str, tuple[int, int]]:
    """URI of an evaluation file -> (how many texts it has, how many of these are not looked for).

    Raises `InputError` for a file that can't be read, and where no text of any file would be looked for.
    """
    index = EvaluationIndex.read(settings)
    if not index.is_indexed_D.any():
        raise InputError(
            f"decontamination: none of the {len(index.texts)} texts of {', '.join(settings.files)} has min_terms"
            f" ({settings.min_terms}) words within ngram ({settings.ngram}), at least half of them no numbers, so"
            " nothing would be found; name other fields or lower min_terms"
        )
    found: dict[str, tuple[int, int]] = {}
    for text, is_indexed in zip(index.texts, index.is_indexed_D.tolist(), strict=True):
        count, left_out = found.get(text.file, (0, 0))
        found[text.file] = count + 1, left_out + (not is_indexed)
    return found


class EvaluationIndex:
    """The n-grams of evaluation sets, without those that have more numbers than words."""

    def __init__(self, texts: Sequence[EvaluationText], *, ngram: int, min_terms: int) -> None:
        self.texts = list(texts)
        column = TextColumn(pa.array([text.text for text in texts], pa.large_string()))
        terms = column.terms
        lengths_D = np.minimum(terms.counts_D(), ngram)
        self._sizes = np.unique(lengths_D[lengths_D >= min_terms]).astype(np.int64)
        num_ngrams = int(np.maximum(terms.counts_D() - ngram + 1, 1).sum())
        self._keys, self._stamps = new_table(num_ngrams)
        self._owners = np.zeros(len(self._keys), np.int32)
        self._bits = np.zeros(len(self._keys), np.uint8)  # 16 bits an n-gram, since the table is at most half full
        number = TextColumn(pa.array(["0"], pa.large_string())).terms.hashes[0]
        # Whether a text has an n-gram in the index: texts that are too short, or lists of numbers, have none.
        self.is_indexed_D = np.zeros(len(texts), np.bool_)
        _index(
            terms.doc_offsets, terms.hashes, lengths_D, min_terms, number, self._keys, self._stamps, self._owners,
            self._bits, self.is_indexed_D,
        )  # fmt: skip

    @classmethod
    def read(cls, settings: DecontaminationSettings) -> EvaluationIndex:
        """The index of the files that the settings name. Raises `InputError` for one that can't be read."""
        texts = read_evaluation_sets(settings.files, settings.fields)
        return cls(texts, ngram=settings.ngram, min_terms=settings.min_terms)

    def find(self, column: TextColumn) -> Hits:
        """The passages of each document that some evaluation text has too."""
        terms: HashedSpans = column.terms
        capacity = 64
        while True:
            starts, ends, texts = (
                np.empty(capacity, np.int64),
                np.empty(capacity, np.int64),
                np.empty(capacity, np.int32),
            )
            doc_offsets, count = _find(
                terms.doc_offsets, terms.starts, terms.ends, terms.hashes, self._sizes,
                self._keys, self._stamps, self._owners, self._bits, starts, ends, texts,
                np.empty(int(terms.counts_D().max(initial=0)) + 1, np.int64),
                np.empty(int(terms.counts_D().max(initial=0)) + 1, np.int32),
            )  # fmt: skip
            if count <= capacity:
                return Hits(doc_offsets, starts[:count], ends[:count], texts[:count])
            capacity = count


@numba.njit(cache=True)
def _index(doc_offsets, hashes, lengths_D, min_terms, number, keys_array, stamps_array, owners, bits, is_indexed_D):
    keys, stamps = pointer_to(keys_array), pointer_to(stamps_array)
    mask, bit_mask = np.uint64(keys_array.size - 1), np.uint64(8 * bits.size - 1)
    for d in range(lengths_D.size):
        n = lengths_D[d]
        if n < min_terms:
            continue
        for p in range(doc_offsets[d], doc_offsets[d + 1] - n + 1):
            h = np.uint64(n)
            numbers = 0
            for k in range(p, p + n):
                h = h * NGRAM_BASE + hashes[k]
                numbers += hashes[k] == number
            if 2 * numbers > n:
                continue
            is_indexed_D[d] = True
            key = mix(h)
            if insert(keys, stamps, mask, key, 1):
                owners[find_slot(keys, stamps, mask, key, 1)] = d
                bit = key >> np.uint64(20) & bit_mask
                bits[bit >> np.uint64(3)] |= np.uint8(np.uint64(1) << (bit & np.uint64(7)))


@numba.njit(cache=True)
def _find(
    doc_offsets, term_starts, term_ends, hashes_array, sizes, keys_array, stamps_array, owners, bits_array, starts,
    ends, texts, reach, owner_at,
):  # fmt: skip
    """(offsets of each document's hits, number of all hits). Hits that the arrays have no room for are only counted.

    `reach[p]` is one past the last term of the longest n-gram that was found at the document's term p, or 0.
    """
    keys, stamps, bits, hashes = (
        pointer_to(keys_array), pointer_to(stamps_array), pointer_to(bits_array), pointer_to(hashes_array)
    )  # fmt: skip
    mask, bit_mask = np.uint64(keys_array.size - 1), np.uint64(8 * bits_array.size - 1)
    hit_offsets = np.zeros(doc_offsets.size, np.int64)
    count = 0
    for d in range(doc_offsets.size - 1):
        first, num_terms = doc_offsets[d], doc_offsets[d + 1] - doc_offsets[d]
        found = 0
        for size in sizes:
            if size > num_terms:
                break
            power = np.uint64(1)
            for _ in range(size):
                power *= NGRAM_BASE
            h = np.uint64(size)
            for k in range(first, first + size):
                h = h * NGRAM_BASE + hashes[k]
            for p in range(num_terms - size + 1):
                if p:  # roll: the size stays in front, so that n-grams of different sizes differ
                    leaving, entering = hashes[first + p - 1], hashes[first + p + size - 1]
                    h = (h - np.uint64(size) * power) * NGRAM_BASE - leaving * power + entering
                    h += np.uint64(size) * power
                key = mix(h)
                bit = key >> np.uint64(20) & bit_mask
                if np.uint64(bits[bit >> np.uint64(3)]) >> (bit & np.uint64(7)) & np.uint64(1):
                    slot = find_slot(keys, stamps, mask, key, 1)
                    if stamps[slot] == 1:
                        if found == 0:
                            reach[:num_terms] = 0
                        found += 1
                        reach[p] = p + size
                        owner_at[p] = owners[slot]
        p = 0
        while found and p < num_terms:
            if reach[p] == 0:
                p += 1
                continue
            begin, end = p, reach[p]
            while p < end:
                end = max(end, reach[p])
                p += 1
            if count < starts.size:
                starts[count], ends[count] = term_starts[first + begin], term_ends[first + end - 1]
                texts[count] = owner_at[begin]
            count += 1
        hit_offsets[d + 1] = count
    return hit_offsets, count
