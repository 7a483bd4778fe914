"""Sketches: one bit of each MinHash, a document in a few words, from which its similarity to another is estimated.

Two documents of Jaccard similarity J agree in a bit with probability (1 + J) / 2: their hashes are equal with
probability J, and where they are not, the lowest bits are equal in half of the cases (Li and König 2010, "b-Bit Minwise
Hashing", with b = 1). So 2 x agreeing / H - 1 estimates J, with standard deviation sqrt((1 - J^2) / H). With 160
hashes, 24 bytes a document, that is 0.07 at J = 0.55.

Shape letters: D documents, H hashes, W words of 64 bits.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

_WORD_BITS = 64


def sketches(signatures_DH: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """[D, W] the lowest bits of each document's H hashes; the bits beyond H are 0."""
    num_documents, num_hashes = signatures_DH.shape
    num_words = -(-num_hashes // _WORD_BITS)
    bits = np.zeros((num_documents, num_words * _WORD_BITS), np.uint8)
    bits[:, :num_hashes] = signatures_DH & 1
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def similarities(
    first_DW: npt.NDArray[np.uint64], second_DW: npt.NDArray[np.uint64], num_hashes: int
) -> npt.NDArray[np.float32]:
    """[D] the estimated Jaccard similarity of each pair, 0 to 1."""
    differing = np.bitwise_count(first_DW ^ second_DW).sum(axis=1, dtype=np.int64)
    return np.clip(1 - 2 * differing / num_hashes, 0, 1).astype(np.float32)


def most_differing(similarity: float, num_hashes: int) -> int:
    """How many bits may differ at most for the estimate to be `similarity` or more."""
    return int((1 - similarity) * num_hashes / 2 + 1e-9)


@numba.njit(cache=True)
def num_differing(first_W, second_W):
    """In how many bits two sketches differ."""
    count = 0
    for w in range(first_W.size):
        x = first_W[w] ^ second_W[w]
        while x:
            x &= x - np.uint64(1)
            count += 1
    return count
