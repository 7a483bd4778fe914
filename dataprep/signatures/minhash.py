"""MinHash signatures of word shingles, and their bands for locality-sensitive hashing.

The shingles of a document are its n-grams of terms (`dataprep.text.match_terms`). Of a random hash function, the least
value over the shingles is the same for two documents with a probability that is their Jaccard similarity J (Broder
1997). So the share of equal hashes in two signatures estimates J, with standard deviation sqrt(J (1 - J) / H).

The hash functions are h(x) = floor((a x + b mod 2^64) / 2^32) of 32-bit x, with random 64-bit a and b: Dietzfelbinger's
multiply-add-shift, which is strongly universal for 32-bit keys and values when it is computed in 63 bits or more
(Thorup 2015, "High Speed Hashing for Integers and Strings", theorem 4.2). To wrap modulo 2^64 is part of the function.
The common `(a x + b) % p` with a p near 2^61 is spoilt by overflow instead, since its product doesn't fit 64 bits.

Shape letters: D documents, H hash functions, B bands of R rows each.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from cluster.contracts.hashing import splitmix64
from dataprep.text.hashing import NGRAM_BASE, mix
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import HashedSpans

DTYPE = np.dtype(np.uint32)  # of signatures
NO_SHINGLES = np.uint32(0xFFFFFFFF)  # every hash in the signature of a document without terms
NO_BAND = np.uint64(0)  # every band hash of such a document, which is no duplicate of anything; no other has it


def signatures(terms: HashedSpans, *, num_hashes: int = 112, ngram: int = 5, seed: int = 1) -> npt.NDArray[np.uint32]:
    """[D, H] the MinHash signature of each document. Equal arguments give equal ones, whatever machine and version.

    A document of fewer than `ngram` terms has one shingle, of all its terms. One without terms has `NO_SHINGLES`
    throughout.
    """
    if num_hashes < 1 or ngram < 1:
        raise ValueError(f"num_hashes and ngram must be at least 1; got {num_hashes} and {ngram}")
    room = max(1, int(terms.counts_D().max(initial=0)))
    multipliers, addends = _hash_functions(num_hashes, seed)
    return _signatures(terms.doc_offsets, terms.hashes, multipliers, addends, ngram, np.empty(room, np.uint64))


def band_hashes(signatures_DH: npt.NDArray[np.uint32], *, bands: int, rows: int) -> npt.NDArray[np.uint64]:
    """[D, B] a 64-bit hash of each band of `rows` MinHashes, which two documents share where they share all of these.

    The number of the band enters its hash, so that hashes of different bands can be in one table. A document without
    shingles has `NO_BAND` throughout: leave such documents out, or they all become one cluster.
    """
    if bands < 1 or rows < 1 or bands * rows > signatures_DH.shape[1]:
        raise ValueError(
            f"{bands} bands of {rows} rows need {bands * rows} hashes; the signatures have {signatures_DH.shape[1]}"
        )
    contiguous = np.ascontiguousarray(signatures_DH, DTYPE).view()
    contiguous.flags.writeable = False
    return _band_hashes(contiguous, bands, rows)


def optimal_bands(threshold: float, num_hashes: int) -> tuple[int, int]:
    """(bands, rows) that best tell documents above the Jaccard similarity `threshold` from those below.

    By datasketch's optimiser, with equal weights for false positives and false negatives. bands x rows may be less than
    `num_hashes`.
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
    """Write the hashes of a document's shingles to `out`; returns their number."""
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
