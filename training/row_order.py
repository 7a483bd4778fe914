"""The order in which training rows are visited: decided once, the same on any number of workers.

Each epoch is shuffled and cut into global batches. Within a batch rows are sorted by length, so that the
micro-batches it is split into hold rows of like length and little padding. (Sorting across batches would
save more, and costs far more: batches of short rows and batches of long rows pull in different directions.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def row_order(lengths_N: Sequence[int], *, epochs: float, global_batch_size: int, seed: int) -> list[int]:
    """Row numbers in order of use, a whole number of global batches: floor(N x epochs / batch) of them.

    No row is used twice before every row is used once, but for those of an incomplete last batch.
    """
    num_rows = len(lengths_N)
    total = int(num_rows * epochs) // global_batch_size * global_batch_size
    generator = np.random.default_rng(seed)
    shuffled: list[int] = []
    while len(shuffled) < total:
        shuffled += generator.permutation(num_rows).tolist()
    order: list[int] = []
    for start in range(0, total, global_batch_size):
        order += sorted(shuffled[start : start + global_batch_size], key=lambda row: lengths_N[row])
    return order
