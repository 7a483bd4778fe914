"""Says which tokens the n-th sample of a training run is made of.

The answer is a pure function of (seed, shards, sequence length, packing, order) and the global sample number. So the
order is the same on 1, 2 or 64 ranks, each rank reads only its own part, and a resumed run goes on at the very next
sample. `TokenSampler` takes the documents of all shards as one stream of tokens and cuts it every T tokens
(concat-and-chunk packing). `training.data.packing` has the sampler that cuts no document without need. An epoch visits
every sample once, in an order that `training.data.sample_order` computes.

Shape letters: B samples of a batch, T the sequence length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from training.data.sample_order import SampleOrder, ShuffledOrder, StreamOrder, WindowedOrder
from training.data.token_stream import TokenStream

IGNORE_INDEX = -100  # the label of a position without a next token; torch's cross-entropy skips it


class Batch(NamedTuple):
    """What one forward pass reads."""

    input_ids_BT: npt.NDArray[np.int64]
    labels_BT: npt.NDArray[np.int64]  # the token after each input; `IGNORE_INDEX` where none counts
    position_ids_BT: npt.NDArray[np.int64] | None  # starting over with each document; None: documents aren't told apart


class Sampler(ABC):
    """Samples of T tokens by global number. Subclasses say what is in each sample of an epoch's stream.

    Where documents are told apart, positions start over with each of them and no document's first token is a label,
    so that a model that attends by positions sees each alone.
    """

    num_samples: int  # of one epoch
    padding_fraction: float  # of all input positions of an epoch, those that hold no token of a document

    def __init__(self, stream: TokenStream, sequence_length: int, *, documents_apart: bool) -> None:
        if stream.num_tokens < 2:
            raise ValueError(f"{stream.num_tokens} tokens can't make a sample; a position needs a next token")
        self.stream = stream
        self.num_tokens = stream.num_tokens
        self.sequence_length = sequence_length
        self._documents_apart = documents_apart
        self._order: SampleOrder = StreamOrder()
        self._announced = (-1, -1)
        # Called with ranges of stream positions that are read soon: those of the window at hand, and of the next.
        self.announce: Callable[[list[tuple[int, int]]], None] | None = None

    @abstractmethod
    def content(self, sample: int) -> list[tuple[int, int]]:
        """(first position, tokens) of the pieces of the stream in one sample of an epoch, T + 1 tokens at most."""

    @abstractmethod
    def positions_of(self, first: int, last: int) -> list[tuple[int, int]]:
        """The ranges [start, stop) of the stream that samples [first, last) are made of."""

    @abstractmethod
    def window_begins(self, num_samples: int) -> npt.NDArray[np.int64]:
        """The first samples of windows of about `num_samples` neighbours each, and the end."""

    @abstractmethod
    def _document_begins(self, pieces: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        """Where in a sample made of `pieces` a document begins."""

    def shuffle(self, seed: int) -> None:
        """Visit samples from anywhere in turn: a permutation of all of an epoch, another one each epoch."""
        self._order = ShuffledOrder(self.num_samples, seed)

    def shuffle_windows(self, seed: int, *, window_samples: int) -> None:
        """Visit windows of about `window_samples` neighbours in a random order, shuffled within."""
        self._order = WindowedOrder(self.window_begins(window_samples), seed)

    def batch(self, numbers: npt.NDArray[np.int64]) -> Batch:
        """The global samples `numbers` (shape B).

        Positions without a token are filled up with token 0 under `IGNORE_INDEX`. A number below 0 gives a sample
        without labels, which keeps ranks in step.
        """
        self._announce_windows(numbers)
        T = self.sequence_length
        input_ids_BT = np.zeros((len(numbers), T), np.int64)
        labels_BT = np.full_like(input_ids_BT, IGNORE_INDEX)
        position_ids_BT = np.tile(np.arange(T, dtype=np.int64), (len(numbers), 1)) if self._documents_apart else None
        contents = [self.content(sample) if sample >= 0 else [] for sample in self.positions(numbers).tolist()]
        for pieces in contents:  # all of the batch is under way before the first of it is waited for
            for start, count in pieces:
                self.stream.will_need(start, count)
        for row, pieces in enumerate(contents):
            if not pieces:
                continue
            tokens = np.concatenate([self.stream.read(start, count) for start, count in pieces])
            filled = len(tokens) - 1  # the last token is only a label
            input_ids_BT[row, :filled] = tokens[:-1]
            labels_BT[row, :filled] = tokens[1:]
            if position_ids_BT is not None:
                begins = self._document_begins(pieces)
                labels_BT[row, begins[begins > 0] - 1] = IGNORE_INDEX
                restarts = np.concatenate(([0], begins[(begins > 0) & (begins < filled)], [filled, T]))
                position_ids_BT[row] -= np.repeat(restarts[:-1], np.diff(restarts))
        return Batch(input_ids_BT, labels_BT, position_ids_BT)

    def positions(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Which sample of an epoch's stream each global sample is; numbers below 0 stay as they are."""
        positions = np.array(numbers, dtype=np.int64)
        wanted = positions >= 0
        epochs = positions // self.num_samples
        positions[wanted] %= self.num_samples
        for epoch in np.unique(epochs[wanted]):
            members = wanted & (epochs == epoch)
            positions[members] = self._order(int(epoch), positions[members])
        return positions

    def _announce_windows(self, numbers: npt.NDArray[np.int64]) -> None:
        if self.announce is None or not isinstance(self._order, WindowedOrder) or (numbers < 0).all():
            return
        epoch, index = divmod(int(numbers.max()), self.num_samples)
        turn = int(self._order.turns(epoch, np.array([index]))[0])
        if (epoch, turn) != self._announced:
            self._announced = (epoch, turn)
            windows = [self._order.samples_of_turn(epoch, turn + ahead) for ahead in (0, 1)]
            self.announce([span for window in windows for span in self.positions_of(*window)])


class TokenSampler(Sampler):
    """The stream of tokens, cut every T: each sample is T inputs and the token after them.

    `shards` is a stream, or arrays of token ids in a fixed order. With a `seed` the samples of each epoch are
    permuted; without one they come in stream order (held-out evaluation). With `offsets`, the arrays' document
    boundaries (D+1 entries each), documents are told apart, and in a stream with `documents_apart`.

    A label is the token after its input, also where that is the next sample's first, so every token of the
    stream but the first (of each document, where they are told apart) is a label exactly once an epoch.
    """

    def __init__(
        self,
        shards: Sequence[npt.NDArray[Any]] | TokenStream,
        sequence_length: int,
        seed: int | None,
        *,
        offsets: Sequence[npt.NDArray[np.int64]] | None = None,
        documents_apart: bool = False,
    ) -> None:
        stream = shards if isinstance(shards, TokenStream) else TokenStream.of_arrays(shards, offsets)
        super().__init__(stream, sequence_length, documents_apart=documents_apart or offsets is not None)
        self.num_samples = -(-(self.num_tokens - 1) // sequence_length)
        self.padding_fraction = 1 - (self.num_tokens - 1) / (self.num_samples * sequence_length)
        if seed is not None:
            self.shuffle(seed)

    def content(self, sample: int) -> list[tuple[int, int]]:
        start = sample * self.sequence_length
        return [(start, min(self.sequence_length + 1, self.num_tokens - start))]

    def positions_of(self, first: int, last: int) -> list[tuple[int, int]]:
        return [(first * self.sequence_length, min(last * self.sequence_length + 1, self.num_tokens))]

    def window_begins(self, num_samples: int) -> npt.NDArray[np.int64]:
        return np.append(np.arange(0, self.num_samples, num_samples, dtype=np.int64), self.num_samples)

    def _document_begins(self, pieces: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        ((start, count),) = pieces
        return self.stream.documents(start, start + count)[0] - start


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
