"""The order in which training rows are visited: decided once, the same on any number of workers.

Rows are shuffled per epoch, and rows of like length are brought together into global batches, since every
position of padding costs as much as a token. The batches are then shuffled again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW_BATCHES = 16  # global batches among which rows of like length find together


def row_order(lengths_N: Sequence[int], *, epochs: float, global_batch_size: int, seed: int) -> list[int]:
    """Row numbers in order of use, a whole number of global batches: floor(N x epochs / batch) of them.

    Every row is used floor(epochs) or ceil(epochs) times, but for those of the incomplete last batch.
    """
    num_rows = len(lengths_N)
    num_batches = int(num_rows * epochs) // global_batch_size
    total = num_batches * global_batch_size
    generator = np.random.default_rng(seed)
    shuffled: list[int] = []
    while len(shuffled) < total:
        shuffled += generator.permutation(num_rows).tolist()
    order: list[int] = []
    window = WINDOW_BATCHES * global_batch_size
    for start in range(0, total, window):
        rows = sorted(shuffled[start : min(start + window, total)], key=lambda row: lengths_N[row])
        batches = [rows[i : i + global_batch_size] for i in range(0, len(rows), global_batch_size)]
        for batch in generator.permutation(len(batches)):
            order += batches[batch]
    return order
