"""Which tokens the n-th sample of a training run is made of.

A pure function of (seed, shards, sequence length) and the global sample number, so the order is the same on
1, 2 or 64 ranks, each rank reads only its own part, and a resumed run goes on at the very next sample. The
documents of all shards are one stream of tokens, cut every T tokens (concat-and-chunk packing); an epoch
visits every cut once, in the order of a keyed permutation that is computed and never stored.

Shape letters: N samples of an epoch, B samples of a batch, T the sequence length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IGNORE_INDEX = -100  # the label of a position without a next token; torch's cross-entropy skips it
_FEISTEL_ROUNDS = 6


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
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014); uint64 arithmetic wraps, as it must."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Batch(NamedTuple):
    """What one forward pass reads."""

    input_ids_BT: npt.NDArray[np.int64]
    labels_BT: npt.NDArray[np.int64]  # the token after each input; `IGNORE_INDEX` where none counts
    position_ids_BT: npt.NDArray[np.int64] | None  # starting over with each document; None: documents aren't told apart


class TokenSampler:
    """Samples of T tokens from shards, by global number.

    `shards` are one-dimensional arrays of token ids, memory-mapped or not, in a fixed order. With a `seed`
    the samples of each epoch are permuted; without one they come in stream order (held-out evaluation).
    `offsets` are the shards' document boundaries (D+1 entries each); with them, positions start over with each
    document and no document's first token is a label, so that a model that attends by positions sees each alone.
    """

    def __init__(
        self,
        shards: Sequence[npt.NDArray[Any]],
        sequence_length: int,
        seed: int | None,
        *,
        offsets: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> None:
        self._shards = shards
        self._offsets = offsets
        self._ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)
        self.num_tokens = int(self._ends[-1]) if len(shards) else 0
        if self.num_tokens < 2:
            raise ValueError(f"{self.num_tokens} tokens can't make a sample; a position needs a next token")
        self.sequence_length = sequence_length
        self.num_samples = -(-(self.num_tokens - 1) // sequence_length)  # of one epoch
        self._seed = seed

    def batch(self, numbers: npt.NDArray[np.int64]) -> Batch:
        """The global samples `numbers` (shape B).

        A label is the token after its input, also where that is the next sample's first, so every token of the
        stream but the first (of each document, where they are told apart) is a label exactly once an epoch. The last
        sample is filled up with token 0 under `IGNORE_INDEX`. A number below 0 gives a sample without labels,
        which keeps ranks in step.
        """
        input_ids_BT = np.zeros((len(numbers), self.sequence_length), np.int64)
        labels_BT = np.full_like(input_ids_BT, IGNORE_INDEX)
        along_T = np.arange(self.sequence_length, dtype=np.int64)
        position_ids_BT = None if self._offsets is None else np.tile(along_T, (len(numbers), 1))
        for row, position in enumerate(self.positions(numbers)):
            if position < 0:
                continue
            start = position * self.sequence_length
            tokens = self._read(start, self.sequence_length + 1)
            count = len(tokens) - 1
            input_ids_BT[row, :count] = tokens[:-1]
            labels_BT[row, :count] = tokens[1:]
            if position_ids_BT is not None:
                begins = self._document_begins(start, count + 1) - start
                labels_BT[row, begins[begins > 0] - 1] = IGNORE_INDEX
                inside = begins[begins < self.sequence_length]
                position_ids_BT[row] -= np.repeat(
                    np.concatenate(([0], inside)), np.diff(np.concatenate(([0], inside, [self.sequence_length])))
                )
        return Batch(input_ids_BT, labels_BT, position_ids_BT)

    def positions(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Which cut of the stream each global sample is; numbers below 0 stay as they are."""
        positions = np.array(numbers, dtype=np.int64)
        wanted = positions >= 0
        epochs = positions // self.num_samples
        positions[wanted] %= self.num_samples
        if self._seed is not None:
            for epoch in np.unique(epochs[wanted]):
                members = wanted & (epochs == epoch)
                permutation = KeyedPermutation(self.num_samples, (self._seed, int(epoch)))
                positions[members] = permutation(positions[members])
        return positions

    def _document_begins(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Where in the stream documents begin, among the `count` tokens from `start`."""
        assert self._offsets is not None
        pieces = [np.zeros(0, np.int64)]
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while shard < len(self._shards):
            shard_start = int(self._ends[shard]) - len(self._shards[shard])
            if shard_start >= start + count:
                break
            begins = self._offsets[shard][:-1]
            first, last = np.searchsorted(begins, [start - shard_start, start + count - shard_start])
            pieces.append(np.unique(begins[first:last]) + shard_start)
            shard += 1
        return np.concatenate(pieces)

    def _read(self, start: int, count: int) -> npt.NDArray[Any]:
        """Up to `count` tokens of the stream from `start`, over shard boundaries."""
        pieces = []
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while count > 0 and shard < len(self._shards):
            tokens = self._shards[shard]
            offset = start - (int(self._ends[shard]) - len(tokens))
            piece = tokens[offset : offset + count]
            pieces.append(piece)
            start, count, shard = start + len(piece), count - len(piece), shard + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def rank_samples(
    first_sample: int, *, global_batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> npt.NDArray[np.int64]:
    """The global sample numbers that one rank reads in an optimizer step, as (accumulation, micro batch).

    The step is made of the `global_batch_size` samples from `first_sample` on whatever the world size is; micro batches
    are dealt to the ranks in turn.
    """
    per_pass = micro_batch_size * world_size
    if global_batch_size % per_pass:
        raise ValueError(f"global batch {global_batch_size} is no multiple of {micro_batch_size} x {world_size}")
    passes = np.arange(global_batch_size // per_pass, dtype=np.int64)[:, None] * per_pass
    return first_sample + rank * micro_batch_size + passes + np.arange(micro_batch_size, dtype=np.int64)[None, :]
