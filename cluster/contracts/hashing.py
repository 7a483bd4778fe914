"""Pseudo-random bits that are a pure function of what they are drawn for: of a seed, a text or a hash of it.

Results rest on these bits (which documents are held out, which hash functions sign them, which tokens are sampled), so
none of them may ever change. That is why they do not come from NumPy's or Python's generators, whose streams may change
with a release, and why they all stand here.

**SplitMix64** (Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", section 4; the constants
are those of Vigna's public-domain `splitmix64.c`) is a counter in steps of `GOLDEN_GAMMA` and a bijection of 64 bits,
`mix64`, that is applied to it. `mix64` works on arrays and, compiled by Numba, on single numbers; this module does not
import Numba, so whoever has kernels compiles it (`dataprep/text/hashing.py`).

**Draws by content** decide by an item's content alone, so that copies of it are on the same side, in every run and
wherever they stand. There are four, because what each gave is in artifacts that exist:

| function            | an item is              | bits | made by                   | decides                           |
|---------------------|-------------------------|------|---------------------------|-----------------------------------|
| `is_prompt_drawn`   | a text                  | 64   | BLAKE2b keyed by a seed   | which prompts are held out        |
| `is_document_drawn` | a text                  | 32   | BLAKE2b salted by a seed  | on what a classifier is measured  |
| `are_hashes_drawn`  | a 64-bit hash of a text | 64   | SplitMix64                | which documents are held out or   |
|                     |                         |      |                           | train a tokenizer                 |
| `unit_interval`     | a 64-bit hash of a text | 53   | `mix64` by the caller     | which pages with bad words stay   |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio, odd: a step that meets every 64-bit number
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1
_DIGEST_128_BYTES = 16


def mix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function: a bijection of 64 bits in which every input bit bears on every output bit.

    For arrays of any shape; for one np.uint64 in code that Numba compiles (as a NumPy scalar it would warn of the
    overflow that is meant).
    """
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def mix64_int(x: int) -> int:
    """`mix64` of one Python integer, of which the lowest 64 bits count."""
    x &= _MASK_64
    x = (x ^ x >> 30) * int(_MIX_1) & _MASK_64
    x = (x ^ x >> 27) * int(_MIX_2) & _MASK_64
    return x ^ x >> 31


def splitmix64(
    seeds: npt.NDArray[np.uint64] | np.uint64, positions: npt.NDArray[np.uint64] | np.uint64
) -> npt.NDArray[np.uint64]:
    """The output at each position (from 0) of the generator with each seed, without the outputs before it.

    Seeds and positions are broadcast against each other; the result has one dimension or more.
    """
    return mix64(np.atleast_1d(seeds) + (np.atleast_1d(positions) + np.uint64(1)) * GOLDEN_GAMMA)


def unit_interval(bits: np.uint64) -> np.float64:
    """A number in [0, 1) of the highest 53 of 64 random bits, as many as a float64 tells apart. For Numba kernels."""
    return (bits >> np.uint64(11)) * 2.0**-53


def is_prompt_drawn(text: str, *, fraction: float, seed: int) -> bool:
    """Whether a text is of the drawn `fraction` (0 to 1): by 64 bits of BLAKE2b, keyed by a seed below 2^64."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def is_document_drawn(text: str, *, fraction: float, seed: int) -> bool:
    """Whether a text is of the drawn `fraction` (0 to 1): by 32 bits of BLAKE2b, salted by a seed below 2^128."""
    digest = hashlib.blake2b(text.encode(), digest_size=4, salt=seed.to_bytes(16, "little")).digest()
    return int.from_bytes(digest, "big") < fraction * 2**32


def are_hashes_drawn(hashes_D: npt.NDArray[np.uint64], *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """[D] which documents are of the drawn `fraction` (0 to 1), by a hash of each; seeds draw independently."""
    if fraction >= 1:
        return np.ones(len(hashes_D), bool)
    return mix64(hashes_D ^ np.uint64(mix64_int(seed + 1))) < np.uint64(fraction * 2.0**64)


def order_key(seed: int, *texts: str) -> bytes:
    """What to sort items by for an order that is random but fixed by the seed and each item's own texts: SHA-256."""
    return hashlib.sha256("\n".join([str(seed), *texts]).encode()).digest()


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on `parts` alone, such as ("ppo", 3, "row", 17): BLAKE2b of them."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def blake2b_128(contents: Iterable[bytes | memoryview]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(high [D], low [D]): the halves of a 128-bit BLAKE2b hash of each content; for equality, also of hostile ones."""
    digests = b"".join(hashlib.blake2b(content, digest_size=_DIGEST_128_BYTES).digest() for content in contents)
    halves = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()
