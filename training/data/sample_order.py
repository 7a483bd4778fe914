"""The order in which an epoch's samples are visited: computed from keys, and the same on any number of ranks.

Two orders are there. `shuffled` visits samples from anywhere in the store one after the other: the best mix, at the
cost of one random read a sample. `windowed` takes windows of neighbouring samples in a random order, and the samples
within each window in a random order. A disk with a moving head can follow that one, and so can a cache that is smaller
than the store, since one window is read at a time.

Shape letters: N samples of an epoch, W windows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cluster.contracts.hashing import mix64

_FEISTEL_ROUNDS = 6


class SampleOrder(Protocol):
    """A bijection of 0..N-1 for each epoch."""

    def __call__(self, epoch: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Which samples of the stream an epoch visits as its `indices`-th (in 0..N-1); any shape."""


class StreamOrder:
    """As the samples come."""

    def __call__(self, epoch: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return indices


class ShuffledOrder:
    """All N samples in the order of a keyed permutation; another one each epoch."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self._num_samples, self._seed = num_samples, seed

    def __call__(self, epoch: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return KeyedPermutation(self._num_samples, (self._seed, epoch))(indices)


class WindowedOrder:
    """Windows of neighbouring samples in a random order, and the samples of each in a random order.

    Window w holds the samples `begins_W[w]` up to `begins_W[w + 1]`, of which there is one more than windows. Memory:
    16 bytes a window.
    """

    def __init__(self, begins_W: npt.NDArray[np.int64], seed: int) -> None:
        sizes_W = np.diff(begins_W)
        if begins_W[0] != 0 or (sizes_W < 1).any():
            raise ValueError("windows must begin with sample 0 and hold at least one sample each")
        self.num_windows = len(sizes_W)
        self._begins_W, self._sizes_W, self._seed = begins_W, sizes_W, seed
        self._epoch = -1
        self._windows: npt.NDArray[np.int64] = np.zeros(0, np.int64)  # in the order of the epoch at hand
        self._ends: npt.NDArray[np.int64] = np.zeros(0, np.int64)  # how many samples are visited once each is done

    def __call__(self, epoch: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        turns = self.turns(epoch, indices)
        samples = np.empty_like(indices)
        for turn in np.unique(turns):
            window = int(self._windows[turn])
            inside = turns == turn
            begun = self._ends[turn] - self._sizes_W[window]
            # Not 0, which would be the key of the order of windows: keys are filled up with zeros.
            permutation = KeyedPermutation(int(self._sizes_W[window]), (self._seed, epoch, window + 1))
            samples[inside] = self._begins_W[window] + permutation(indices[inside] - begun)
        return samples

    def turns(self, epoch: int, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many windows of the epoch are done before the one that each index falls into."""
        self._order_windows(epoch)
        return np.searchsorted(self._ends, indices, side="right")

    def samples_of_turn(self, epoch: int, turn: int) -> tuple[int, int]:
        """The samples [first, last) of the window whose turn it is; a turn past the epoch's end is of the next one."""
        epoch, turn = epoch + turn // self.num_windows, turn % self.num_windows
        window = int(KeyedPermutation(self.num_windows, (self._seed, epoch))(np.array([turn]))[0])
        return int(self._begins_W[window]), int(self._begins_W[window + 1])

    def _order_windows(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._windows = KeyedPermutation(self.num_windows, (self._seed, epoch))(np.arange(self.num_windows))
            self._ends = np.cumsum(self._sizes_W[self._windows])
            self._epoch = epoch


class KeyedPermutation:
    """A permutation of 0..N-1 in O(1) memory: a Feistel network on the next even number of bits, cycle-walked.

    Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains": a value that leaves the domain is encrypted
    again until it is inside. The network's domain is less than 4N, so that takes under 4 turns on average.
    """

    def __init__(self, size: int, key: Sequence[int]) -> None:
        if size < 1:
            raise ValueError(f"a permutation of {size} elements; at least 1 is needed")
        self.size = size
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        self._round_keys = np.random.SeedSequence(key).generate_state(_FEISTEL_ROUNDS, np.uint64)

    def __call__(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each of `indices` (in 0..N-1) goes; any shape."""
        values = self._encrypt(indices.astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._round_keys:
            left, right = right, left ^ (mix64(right ^ key) & self._mask)
        return (left << self._half_bits) | right
