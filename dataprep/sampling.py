"""How often the documents of each group are taken: by the group's size, its weight and a temperature.

Which documents of a group are taken, where not all are, is drawn by `cluster/contracts/hashing.py`.

Shape letter: G groups.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def temperature_factors(sizes_G: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """[G] what to multiply sizes by for shares in proportion to (size / sum)^(1 / temperature); 0 for empty groups.

    Source: Devlin et al. 2019 (multilingual BERT) and Conneau et al. 2020, arXiv:1911.02116, whose alpha is
    1 / temperature. Raises `ValueError` for a temperature below 1.
    """
    if temperature < 1:
        raise ValueError(f"temperature must be at least 1; got {temperature}")
    fractions = sizes_G / max(sizes_G.sum(), 1e-300)
    factors = np.zeros(len(sizes_G))
    filled = sizes_G > 0
    factors[filled] = fractions[filled] ** (1 / temperature - 1)
    return factors


def epochs(
    sizes_G: npt.NDArray[np.float64], weights_G: npt.NDArray[np.float64], *, total: float, max_epochs: float
) -> npt.NDArray[np.float64]:
    """[G] how often each group comes, so that what is taken sums to `total` and is in proportion to size x weight.

    No group comes more often than `max_epochs`. What that cuts off goes to the others, in the same proportions; where
    all are at the limit, the sum is less than `total`.
    """
    found = np.zeros(len(sizes_G))
    open_G = (sizes_G > 0) & (weights_G > 0)
    left = total
    while open_G.any() and left > 0:
        scale = left / (sizes_G[open_G] * weights_G[open_G]).sum()
        over = open_G & (weights_G * scale > max_epochs)
        if not over.any():
            found[open_G] = weights_G[open_G] * scale
            break
        found[over] = max_epochs
        left -= max_epochs * sizes_G[over].sum()
        open_G &= ~over
    return found
