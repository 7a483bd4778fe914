"""Draws documents by their content: the same text is always on the same side, in whatever corpus it lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def drawn(hashes_D: npt.NDArray[np.uint64], *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of D documents belong to the drawn `fraction` (0 to 1), as bool[D].

    A pure function of a document's hash and the seed; different seeds draw independently. The hash is mixed with
    the seed by SplitMix64's finaliser (Steele, Lea and Flood, 2014).
    """
    if fraction >= 1:
        return np.ones(len(hashes_D), bool)
    mixed = _mix(hashes_D ^ _mix(np.array([seed + 1], np.uint64)))
    return mixed < np.uint64(fraction * 2.0**64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
