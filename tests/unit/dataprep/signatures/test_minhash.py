"""Signatures against big-integer arithmetic, and their estimates against true similarities."""

import math
import random

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from dataprep.signatures import minhash
from dataprep.text.column import TextColumn
from dataprep.text.spans import HashedSpans


def terms_of(*texts: str) -> HashedSpans:
    return TextColumn(pa.array(texts, pa.large_string())).terms


def document(numbers: range) -> str:
    """Words of which no two are alike: "wa wb ... wba"."""
    letters = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in numbers]
    return " ".join(f"w{word}" for word in letters)


def slow_signatures(terms: HashedSpans, num_hashes: int, ngram: int, seed: int) -> list[list[int]]:
    """The definition, in Python's unbounded integers."""
    multipliers, addends = (array.tolist() for array in minhash._hash_functions(num_hashes, seed))
    out = []
    for d in range(len(terms.counts_D())):
        hashes = terms.hashes[terms.doc_offsets[d] : terms.doc_offsets[d + 1]]
        scratch = np.empty(max(1, len(hashes)), np.uint64)
        count = minhash._shingle_hashes(hashes, ngram, scratch)
        keys = [key >> 32 for key in scratch[:count].tolist()]
        out.append(
            [
                min(((a * key + b) % 2**64 >> 32 for key in keys), default=int(minhash.NO_SHINGLES))
                for a, b in zip(multipliers, addends, strict=True)
            ]
        )
    return out


def jaccard(terms: HashedSpans, i: int, j: int, *, ngram: int = 5) -> float:
    """The Jaccard similarity of two documents' sets of shingles, by its definition; 0 where either has none."""
    sets = []
    for d in (i, j):
        hashes = terms.hashes[terms.doc_offsets[d] : terms.doc_offsets[d + 1]].tolist()
        length = min(ngram, len(hashes))
        sets.append({tuple(hashes[s : s + length]) for s in range(len(hashes) - length + 1) if length})
    first, second = sets
    return len(first & second) / len(first | second) if first and second else 0.0


def test_signatures_equal_their_twin() -> None:
    rng = random.Random(3)
    texts = [" ".join(rng.choice("abcdefgh") * rng.randint(1, 3) for _ in range(rng.randint(0, 60))) for _ in range(40)]
    terms = terms_of(*texts)
    for ngram, seed in ((1, 0), (5, 1), (13, 7)):
        signatures = minhash.signatures(terms, num_hashes=17, ngram=ngram, seed=seed)
        assert signatures.dtype == minhash.DTYPE
        assert signatures.tolist() == slow_signatures(terms, 17, ngram, seed)


@pytest.mark.parametrize("shared", [0, 100, 300, 500, 700, 900, 1000])
def test_equal_rows_estimate_jaccard_within_four_standard_deviations(shared: int) -> None:
    num_hashes = 1024
    terms = terms_of(document(range(1000)), document(range(1000 - shared, 2000 - shared)))
    similarity = jaccard(terms, 0, 1)
    common, each = max(0, shared - 4), 996
    assert similarity == pytest.approx(common / (2 * each - common))
    first, second = minhash.signatures(terms, num_hashes=num_hashes)
    error = abs(float(np.mean(first == second)) - similarity)
    assert error <= 4 * math.sqrt(similarity * (1 - similarity) / num_hashes)


def test_every_shingle_is_the_least_equally_often() -> None:
    num_hashes, num_words = 20_000, 20
    words = document(range(num_words)).split()
    terms = terms_of(" ".join(words), *words)
    signatures = minhash.signatures(terms, num_hashes=num_hashes, ngram=1)
    wins = (signatures[1:] == signatures[0]).sum(axis=1)
    expected = num_hashes / num_words
    assert wins.sum() == num_hashes
    assert ((wins - expected) ** 2 / expected).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001


def test_fewer_terms_than_the_shingle_length_make_one_shingle() -> None:
    terms = terms_of("a b c", "A, b; c!", "a b d", "c b a")
    signatures = minhash.signatures(terms)
    assert (signatures[0] == signatures[1]).all()
    assert not (signatures[0] == signatures[2]).any()
    assert jaccard(terms, 0, 1) == 1.0
    assert jaccard(terms, 0, 3) == 0.0


def test_documents_without_terms_have_no_bands_and_no_similarity() -> None:
    terms = terms_of("", "!!!", "a b")
    signatures = minhash.signatures(terms, num_hashes=8)
    assert (signatures[:2] == minhash.NO_SHINGLES).all()
    bands = minhash.band_hashes(signatures, bands=4, rows=2)
    assert (bands[:2] == minhash.NO_BAND).all()
    assert (bands[2] != minhash.NO_BAND).all()
    assert jaccard(terms, 0, 1) == 0.0


def test_band_hashes_agree_exactly_where_all_rows_of_the_band_do() -> None:
    rng = np.random.default_rng(0)
    signatures: npt.NDArray[np.uint32] = rng.integers(0, 3, (60, 12), np.uint32)
    bands = minhash.band_hashes(signatures, bands=4, rows=3)
    for i in range(60):
        for j in range(60):
            rows_equal = (signatures[i] == signatures[j]).reshape(4, 3).all(axis=1)
            assert ((bands[i] == bands[j]) == rows_equal).all()
    same = np.full((1, 12), 5, np.uint32)
    assert len(set(minhash.band_hashes(same, bands=4, rows=3)[0].tolist())) == 4


def test_a_longer_signature_begins_with_the_shorter_one() -> None:
    terms = terms_of(document(range(50)))
    short, long = (minhash.signatures(terms, num_hashes=count) for count in (16, 40))
    assert (long[:, :16] == short).all()


def test_bands_need_enough_hashes() -> None:
    with pytest.raises(ValueError, match="14 bands of 8 rows need 112 hashes; the signatures have 100"):
        minhash.band_hashes(np.zeros((1, 100), np.uint32), bands=14, rows=8)


def test_optimal_bands_fit_and_put_the_threshold_on_the_slope() -> None:
    for threshold in (0.5, 0.72, 0.9):
        bands, rows = minhash.optimal_bands(threshold, 112)
        assert bands * rows <= 112
        assert (1 / bands) ** (1 / rows) == pytest.approx(threshold, abs=0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        minhash.optimal_bands(1.0, 112)


def test_seeds_give_other_functions_and_signatures_are_fixed_for_ever() -> None:
    terms = terms_of(document(range(50)))
    first, second = minhash.signatures(terms, num_hashes=4), minhash.signatures(terms, num_hashes=4, seed=2)
    assert not (first == second).any()
    assert minhash.signatures(terms_of("one two three four five six"), num_hashes=3).tolist() == [
        [638180698, 1712227700, 648243832]
    ]
