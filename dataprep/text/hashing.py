"""The 64-bit hashes of the compiled text loops: FNV-1a over bytes, then SplitMix64's output function over all bits.

They stand for words, lines and n-grams within statistics and shingles. Two different items share a hash with
probability 2^-64, but whoever wants to can make two that do: where that would matter, for the equality of whole
documents, `dataprep/signatures/exact.py` uses a cryptographic hash.

Source of FNV-1a: Fowler, Noll, Vo and Eastlake, draft-eastlake-fnv.
"""

from __future__ import annotations

import numba
import numpy as np

from cluster.contracts import hashing

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
NGRAM_BASE = hashing.GOLDEN_GAMMA  # of the polynomial hash of an n-gram; odd, so that no bit is lost modulo 2^64

mix = numba.njit(cache=True)(hashing.mix64)
unit_interval = numba.njit(cache=True)(hashing.unit_interval)


@numba.njit(cache=True)
def hash_bytes(data, start, end):
    """The hash of the bytes `data[start:end]`."""
    h = FNV_OFFSET
    for i in range(start, end):
        h = (h ^ np.uint64(data[i])) * FNV_PRIME
    return mix(h)


def hash_text(text: str) -> int:
    """What `hash_bytes` gives for the UTF-8 bytes of `text`; for words that a setting lists."""
    h = int(FNV_OFFSET)
    for byte in text.encode():
        h = (h ^ byte) * int(FNV_PRIME) & (1 << 64) - 1
    return hashing.mix64_int(h)
