"""MinHash signatures of word shingles, and their bands for locality-sensitive hashing.

A document's shingles are its n-grams of terms (`dataprep.text.match_terms`). For a random hash function the least
hash over the shingles is the same for two documents with probability equal to their Jaccard similarity (Broder 1997),
so the share of equal rows in two signatures estimates it, with standard deviation sqrt(J (1 - J) / H).

The hash functions are h(x) = floor((a x + b mod 2^64) / 2^32) on 32-bit x with random 64-bit a and b: Dietzfelbinger's
multiply-add-shift, strongly universal for 32-bit keys and values when computed in 63 bits or more (Thorup 2015,
"High Speed Hashing for Integers and Strings", theorem 4.2). Wrapping modulo 2^64 is part of the function, so nothing
is lost to overflow, unlike in the common `(a x + b) % p` with a p near 2^61, whose product doesn't fit 64 bits.

Shape letters: D documents, H hash functions, B bands of R rows each.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from cluster.contracts.hashing import splitmix64
from dataprep.text.hashing import NGRAM_BASE, mix
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import Spans

DTYPE = np.dtype(np.uint32)  # of signatures
NO_SHINGLES = np.uint32(0xFFFFFFFF)  # every row of the signature of a document without terms
NO_BAND = np.uint64(0)  # the band hash of such a document; it is no duplicate of anything and no band of a document


def signatures(terms: Spans, *, num_hashes: int = 112, ngram: int = 5, seed: int = 1) -> npt.NDArray[np.uint32]:
    """[D, H] the MinHash signature of each document; equal across runs, machines and versions for equal arguments.

    A document of fewer than `ngram` terms has one shingle: all its terms. One without terms gets `NO_SHINGLES`.
    """
    if num_hashes < 1 or ngram < 1:
        raise ValueError(f"num_hashes and ngram must be at least 1; got {num_hashes} and {ngram}")
    room = max(1, int(terms.counts_D().max(initial=0)))
    multipliers, addends = _hash_functions(num_hashes, seed)
    return _signatures(terms.doc_offsets, terms.hashes, multipliers, addends, ngram, np.empty(room, np.uint64))


def band_hashes(signatures_DH: npt.NDArray[np.uint32], *, bands: int, rows: int) -> npt.NDArray[np.uint64]:
    """[D, B] one 64-bit hash per band of `rows` rows; equal in two documents where the band's rows are.

    The band's number enters the hash, so hashes of different bands can share one table. A document without shingles
    has `NO_BAND` everywhere: leave those out, or all such documents become one cluster.
    """
    if bands < 1 or rows < 1 or bands * rows > signatures_DH.shape[1]:
        raise ValueError(
            f"{bands} bands of {rows} rows need {bands * rows} hashes; the signatures have {signatures_DH.shape[1]}"
        )
    contiguous = np.ascontiguousarray(signatures_DH, DTYPE).view()
    contiguous.flags.writeable = False
    return _band_hashes(contiguous, bands, rows)


def optimal_bands(threshold: float, num_hashes: int) -> tuple[int, int]:
    """(bands, rows) that split documents best at Jaccard similarity `threshold`, by datasketch's optimiser.

    It weighs false positives and false negatives alike; bands x rows may be less than `num_hashes`.
    """
    from datasketch import MinHashLSH

    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1; got {threshold}")
    chosen = MinHashLSH(threshold=threshold, num_perm=num_hashes)
    return chosen.b, chosen.r


def _hash_functions(num_hashes: int, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """([H] random multipliers, [H] random addends), drawn in turn, so that a longer signature begins with a shorter."""
    drawn = splitmix64(np.uint64(seed % 2**64), np.arange(2 * num_hashes, dtype=np.uint64))
    return drawn[::2].copy(), drawn[1::2].copy()


@numba.njit(cache=True)
def _shingle_hashes(term_hashes, ngram, out):
    """Fill `out` with the hashes of the n-grams of one document's terms; returns their number."""
    num_terms = term_hashes.size
    if num_terms == 0:
        return 0
    length = min(ngram, num_terms)
    for s in range(num_terms - length + 1):
        h = np.uint64(0)
        for k in range(s, s + length):
            h = h * NGRAM_BASE + term_hashes[k]
        out[s] = mix(h)
    return num_terms - length + 1


@numba.njit(cache=True)
def _signatures(doc_offsets, term_hashes, multipliers, addends, ngram, scratch):
    num_documents, num_hashes = doc_offsets.size - 1, multipliers.size
    out = np.full((num_documents, num_hashes), NO_SHINGLES, np.uint32)
    for d in range(num_documents):
        num_shingles = _shingle_hashes(term_hashes[doc_offsets[d] : doc_offsets[d + 1]], ngram, scratch)
        for s in range(num_shingles):
            scratch[s] >>= np.uint64(32)
        for k in range(num_hashes):
            out[d, k] = _least_hash(pointer_to(scratch), num_shingles, multipliers[k], addends[k])
    return out


@numba.njit(cache=True)
def _least_hash(keys, count, multiplier, addend):
    least = np.uint64(0xFFFFFFFFFFFFFFFF)
    for s in range(count):
        least = min(least, keys[s] * multiplier + addend)
    return np.uint32(least >> np.uint64(32))


@numba.njit(cache=True)
def _band_hashes(signatures_DH, bands, rows):
    num_documents = signatures_DH.shape[0]
    out = np.zeros((num_documents, bands), np.uint64)
    for d in range(num_documents):
        empty = True
        for k in range(signatures_DH.shape[1]):
            empty = empty and signatures_DH[d, k] == NO_SHINGLES
        if empty:
            continue
        for band in range(bands):
            h = np.uint64(band + 1)
            for k in range(band * rows, (band + 1) * rows):
                h = mix(h * NGRAM_BASE + np.uint64(signatures_DH[d, k]))
            out[d, band] = h if h != NO_BAND else np.uint64(1)
    return out
