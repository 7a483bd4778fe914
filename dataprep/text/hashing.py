"""The 64-bit hashes of the compiled text loops: FNV-1a over bytes, then a finaliser that mixes all bits.

Not cryptographic: they stand for words, lines and n-grams within statistics and shingles. Two different items
share a hash with probability 2^-64. Whole-document equality uses `dataprep.signatures.exact` instead.
"""

from __future__ import annotations

import numba
import numpy as np

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
NGRAM_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing modulo 2^64
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@numba.njit(cache=True)
def mix(x):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection on 64 bits."""
    x = np.uint64(x)
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True)
def hash_bytes(data, start, end):  # type: ignore[no-untyped-def]
    """The hash of `data[start:end]`."""
    h = FNV_OFFSET
    for i in range(start, end):
        h = (h ^ np.uint64(data[i])) * FNV_PRIME
    return mix(h)


def hash_text(text: str) -> int:
    """What `hash_bytes` gives for the UTF-8 bytes of `text`; for the words that a setting lists."""
    mask = (1 << 64) - 1
    h = int(FNV_OFFSET)
    for byte in text.encode():
        h = (h ^ byte) * int(FNV_PRIME) & mask
    h = (h ^ h >> 30) * int(_MIX_1) & mask
    h = (h ^ h >> 27) * int(_MIX_2) & mask
    return h ^ h >> 31
