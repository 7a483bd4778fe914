"""Best-fit packing: samples are filled with whole documents, and none is cut that is not longer than a sample.

After Ding et al. 2024, "Fewer Truncations Improve Language Modeling": documents longer than a sample are cut into
pieces of its size. Then all pieces, the longest first, go each into the sample with the least room that still takes it
(best-fit decreasing). Here this is done within windows of documents. Any sample can so be found by packing one window,
and nothing needs to be stored but how many samples each window makes.

The documents of a window come from `STRIPES` places spread over its region. Shards are ordered by language and length,
so neighbouring documents are of like length, and long documents alone would leave gaps that only short ones fill.

A sample holds up to C = T + 1 tokens, of which the first T are inputs and the last T labels. Shape letters: D documents
of a window, P their pieces, W windows, T the sequence length.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from training.data.sampler import Sampler
from training.data.token_stream import TokenStream

WINDOW_SAMPLES = 1024  # of documents, in tokens; docs/decisions/pretraining-data.md has what other sizes cost
STRIPES = 32
_PACKED_WINDOWS = 128  # kept by a sampler; an order by windows comes back to them


class Packed(NamedTuple):
    """The pieces of one window's documents, sample by sample."""

    starts_P: npt.NDArray[np.int64]  # positions in the stream
    lengths_P: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]  # sample s holds the pieces ends[s] up to ends[s + 1]; one more than samples


def pack(begins_D: npt.NDArray[np.int64], lengths_D: npt.NDArray[np.int64], capacity: int) -> Packed:
    """Best-fit decreasing of documents at these positions into samples of `capacity` tokens.

    Of samples with the same room the one that was given it last is taken, and of pieces of the same length the first
    in the stream comes first, so the result is one function of the documents.
    """
    starts_P, lengths_P = _cut(begins_D, lengths_D, capacity)
    order_P = np.argsort(-lengths_P, kind="stable")
    samples_P, num_samples = _best_fit(lengths_P[order_P], capacity)
    by_sample = np.argsort(samples_P, kind="stable")
    order_P = order_P[by_sample]
    ends = np.searchsorted(samples_P[by_sample], np.arange(num_samples + 1))
    return Packed(starts_P[order_P], lengths_P[order_P], ends)


def num_packed(lengths_D: npt.NDArray[np.int64], capacity: int) -> int:
    """How many samples `pack` makes of documents of these lengths."""
    _, lengths_P = _cut(np.zeros_like(lengths_D), lengths_D, capacity)
    return int(_best_fit(np.sort(lengths_P)[::-1], capacity)[1])


class PackingWindows:
    """Which documents are packed together: a rule over positions of the stream, which it cuts nowhere.

    The stream is cut into regions of `region_samples` samples' tokens (None: it is one), a region into windows of about
    `window_samples`, and each window is `STRIPES` ranges spread evenly over its region. A document belongs to the
    window in which it begins.
    """

    def __init__(
        self, num_tokens: int, sequence_length: int, *, region_samples: int | None, window_samples: int = WINDOW_SAMPLES
    ) -> None:
        self._num_tokens = num_tokens
        self._region_tokens = num_tokens if region_samples is None else region_samples * sequence_length
        window_tokens = window_samples * (sequence_length + 1)
        self.num_regions = -(-num_tokens // self._region_tokens)
        self._windows_per_region = max(1, round(self._region_tokens / window_tokens))
        last_tokens = num_tokens - (self.num_regions - 1) * self._region_tokens
        self._windows_of_last = max(1, round(last_tokens / window_tokens))
        self.num_windows = (self.num_regions - 1) * self._windows_per_region + self._windows_of_last

    def region_of(self, window: int) -> int:
        """The region that a window lies in."""
        return min(window // self._windows_per_region, self.num_regions - 1)

    def first_window(self, region: int) -> int:
        """The first window of a region; of the region past the last, the number of windows."""
        return self.num_windows if region == self.num_regions else region * self._windows_per_region

    def span(self, region: int) -> tuple[int, int]:
        """The positions [start, stop) of a region."""
        start = region * self._region_tokens
        return start, min(start + self._region_tokens, self._num_tokens)

    def stripes(self, window: int) -> list[tuple[int, int]]:
        """The positions [start, stop) of a window's ranges."""
        region = self.region_of(window)
        start, stop = self.span(region)
        windows = self.first_window(region + 1) - self.first_window(region)
        number = window - self.first_window(region)

        def bound(stripe: int) -> int:
            return start + (stop - start) * stripe // (STRIPES * windows)

        return [(bound(turn * windows + number), bound(turn * windows + number + 1)) for turn in range(STRIPES)]


def window_sizes(
    stream: TokenStream,
    sequence_length: int,
    windows: PackingWindows,
    *,
    on_window: Callable[[int], None] = lambda window: None,
) -> npt.NDArray[np.int64]:
    """How many samples each window makes (shape W): one pass over all document boundaries, and none over tokens."""
    sizes_W = np.zeros(windows.num_windows, np.int64)
    for window in range(windows.num_windows):
        _, lengths_D = _documents(stream, windows.stripes(window))
        sizes_W[window] = num_packed(lengths_D, sequence_length + 1)
        on_window(window)
    return sizes_W


class BestFitSampler(Sampler):
    """Samples of whole documents as far as they fit; every token is in exactly one sample of an epoch.

    The packing is the same in all epochs; their orders differ. `sizes_W` is what `window_sizes` gives for these
    `windows`. Memory: 8 bytes a window, and the packings of the windows met last.
    """

    def __init__(
        self,
        stream: TokenStream,
        sequence_length: int,
        windows: PackingWindows,
        sizes_W: npt.NDArray[np.int64],
        *,
        documents_apart: bool,
    ) -> None:
        super().__init__(stream, sequence_length, documents_apart=documents_apart)
        if len(sizes_W) != windows.num_windows:
            raise ValueError(f"sizes of {len(sizes_W)} windows; there are {windows.num_windows}")
        self._windows = windows
        self._ends_W = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes_W)])
        self.num_samples = int(self._ends_W[-1])
        # A sample of n tokens fills n - 1 input positions.
        filled = self.num_tokens - self.num_samples
        self.padding_fraction = 1 - filled / (self.num_samples * sequence_length)
        self._packed: OrderedDict[int, Packed] = OrderedDict()

    def content(self, sample: int) -> list[tuple[int, int]]:
        window = self._window_of(sample)
        packed = self._pack(window)
        first, last = packed.ends[sample - self._ends_W[window] :][:2]
        return list(zip(packed.starts_P[first:last].tolist(), packed.lengths_P[first:last].tolist(), strict=True))

    def positions_of(self, first: int, last: int) -> list[tuple[int, int]]:
        # A document that begins in a region lies in the same row of the index as the region's part of it.
        regions = [self._windows.region_of(self._window_of(sample)) for sample in (first, last - 1)]
        return [self._windows.span(region) for region in range(regions[0], regions[1] + 1)]

    def window_begins(self, num_samples: int) -> npt.NDArray[np.int64]:
        """The windows of the order are the regions of packing, whatever `num_samples` is."""
        firsts = [self._windows.first_window(region) for region in range(self._windows.num_regions + 1)]
        return np.unique(self._ends_W[firsts])  # a region inside a very long document makes no sample

    def _document_begins(self, pieces: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        return np.cumsum([0, *(count for _, count in pieces[:-1])])

    def _window_of(self, sample: int) -> int:
        return int(self._ends_W.searchsorted(sample, side="right")) - 1

    def _pack(self, window: int) -> Packed:
        packed = self._packed.get(window)
        if packed is None:
            packed = pack(*_documents(self.stream, self._windows.stripes(window)), self.sequence_length + 1)
            self._packed[window] = packed
            if len(self._packed) > _PACKED_WINDOWS:
                self._packed.popitem(last=False)
        else:
            self._packed.move_to_end(window)
        return packed


def _documents(
    stream: TokenStream, stripes: Sequence[tuple[int, int]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    found = [stream.documents(start, stop) for start, stop in stripes]
    return np.concatenate([begins for begins, _ in found]), np.concatenate([lengths for _, lengths in found])


def _cut(
    begins_D: npt.NDArray[np.int64], lengths_D: npt.NDArray[np.int64], capacity: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(starts_P, lengths_P) of the documents in pieces of at most `capacity` tokens."""
    counts_D = -(-lengths_D // capacity)
    if len(counts_D) == 0 or counts_D.max() == 1:
        return begins_D, lengths_D
    document_P = np.repeat(np.arange(len(lengths_D)), counts_D)
    before_P = (np.arange(len(document_P)) - np.repeat(np.cumsum(counts_D) - counts_D, counts_D)) * capacity
    return begins_D[document_P] + before_P, np.minimum(lengths_D[document_P] - before_P, capacity)


@numba.njit(cache=True)
def _best_fit(lengths_P, capacity):
    """(sample of each piece, number of samples); `lengths_P` descend and are at most `capacity`.

    Samples with the same room are a linked list, and a bitmap says which rooms there are.
    """
    samples_P = np.empty(len(lengths_P), np.int64)
    newest = np.full(capacity + 1, -1, np.int64)  # by room: the sample that was given it last
    older = np.empty(len(lengths_P), np.int64)  # by sample: the next one of the same room
    rooms = np.zeros(capacity // 64 + 1, np.uint64)  # bit r: is there a sample with room r
    one = np.uint64(1)
    count = 0
    for piece in range(len(lengths_P)):
        length = lengths_P[piece]
        word = length // 64
        bits = rooms[word] >> np.uint64(length % 64) << np.uint64(length % 64)
        while bits == 0 and word + 1 < len(rooms):
            word += 1
            bits = rooms[word]
        if bits != 0:
            room = word * 64
            while bits & one == 0:
                bits >>= one
                room += 1
            sample = newest[room]
            newest[room] = older[sample]
            if newest[room] < 0:
                rooms[room // 64] &= ~(one << np.uint64(room % 64))
        else:
            room, sample = capacity, count
            count += 1
        samples_P[piece] = sample
        room -= length
        if room > 0:
            older[sample] = newest[room]
            newest[room] = sample
            rooms[room // 64] |= one << np.uint64(room % 64)
    return samples_P, count
