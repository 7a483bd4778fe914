"""Best-fit packing: complete, without needless cuts, and what a slow twin packs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from training.data.packing import BestFitSampler, PackingWindows, num_packed, pack, window_sizes
from training.data.sampler import IGNORE_INDEX
from training.data.token_stream import TokenStream


def slow_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Samples as lists of pieces' lengths. The sample tried first is the one that was changed last."""
    pieces = [min(capacity, length - cut) for length in lengths for cut in range(0, length, capacity)]
    samples: list[list[int]] = []
    recent: list[int] = []  # sample numbers, the one changed last in front
    for piece in sorted(pieces, reverse=True):
        fitting = [s for s in recent if sum(samples[s]) + piece <= capacity]
        if fitting:
            chosen = max(fitting, key=lambda s: sum(samples[s]))  # the first of equals
        else:
            chosen = len(samples)
            samples.append([])
        samples[chosen].append(piece)
        recent = [chosen, *(s for s in recent if s != chosen)]
    return samples


@pytest.mark.parametrize("seed", range(20))
def test_packing_equals_the_slow_twin(seed: int) -> None:
    draw = np.random.default_rng(seed)
    capacity = int(draw.integers(1, 200))
    lengths_D = np.maximum(draw.lognormal(np.log(capacity / 3), 1.0, 150).astype(np.int64), 1)
    packed = pack(np.cumsum(lengths_D) - lengths_D, lengths_D, capacity)
    samples = [
        packed.lengths_P[first:last].tolist() for first, last in zip(packed.ends[:-1], packed.ends[1:], strict=True)
    ]
    assert samples == slow_best_fit(lengths_D.tolist(), capacity)
    assert num_packed(lengths_D, capacity) == len(samples)


def sampler_of(
    shards: list[list[int]], T: int, *, region: int | None, window: int, documents_apart: bool = True
) -> BestFitSampler:
    """Over shards of documents of these lengths; tokens are their positions in the stream, plus one."""
    offsets = [np.cumsum([0, *lengths]).astype(np.int64) for lengths in shards]
    firsts = np.cumsum([1, *(int(o[-1]) for o in offsets)])
    arrays = [np.arange(first, first + o[-1], dtype=np.uint32) for first, o in zip(firsts, offsets, strict=False)]
    stream = TokenStream.of_arrays(arrays, offsets)
    windows = PackingWindows(stream.num_tokens, T, region_samples=region, window_samples=window)
    sizes_W = window_sizes(stream, T, windows)
    return BestFitSampler(stream, T, windows, sizes_W, documents_apart=documents_apart)


def random_shards(seed: int) -> list[list[int]]:
    """Of documents ordered by length, as a shard's are; some are empty, some much longer than a sample."""
    draw = np.random.default_rng(seed)
    return [sorted(draw.lognormal(2.0, 1.3, int(draw.integers(0, 120))).astype(int).tolist()) for _ in range(4)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("region", "window"), [(None, 4), (None, 1000), (20, 3), (2, 1)])
def test_every_token_is_in_one_sample_and_no_document_that_fits_is_cut(
    seed: int, region: int | None, window: int
) -> None:
    shards, T = random_shards(seed), 24
    sampler = sampler_of(shards, T, region=region, window=window)
    pieces = [piece for sample in range(sampler.num_samples) for piece in sampler.content(sample)]
    tokens = sorted(position for start, count in pieces for position in range(start, start + count))
    assert tokens == list(range(sampler.num_tokens))
    position = 0
    for length in (length for shard in shards for length in shard if length):
        if length <= T + 1:
            assert (position, length) in pieces
        else:
            assert all((cut, min(T + 1, position + length - cut)) in pieces
                       for cut in range(position, position + length, T + 1))  # fmt: skip
        position += length
    assert all(sum(count for _, count in sampler.content(s)) <= T + 1 for s in range(sampler.num_samples))


@pytest.mark.parametrize("documents_apart", [True, False])
def test_a_batch_shows_documents_alone_or_end_to_end_and_padding_counts_as_nothing(documents_apart: bool) -> None:
    sampler = sampler_of([[4, 3, 9, 2]], 7, region=None, window=100, documents_apart=documents_apart)
    batch = sampler.batch(np.arange(sampler.num_samples))
    # Pieces of 8, 4, 3, 2 and 1 tokens; the last, the rest of the long document, fills up the second sample.
    assert batch.input_ids_BT.tolist() == [[8, 9, 10, 11, 12, 13, 14], [1, 2, 3, 4, 5, 6, 7], [17, 0, 0, 0, 0, 0, 0]]
    X = IGNORE_INDEX
    if documents_apart:
        assert batch.labels_BT.tolist() == [[9, 10, 11, 12, 13, 14, 15], [2, 3, 4, X, 6, 7, X], [18, X, X, X, X, X, X]]
        assert batch.position_ids_BT is not None
        assert batch.position_ids_BT.tolist() == [[*range(7)], [0, 1, 2, 3, 0, 1, 2], [0, 0, 1, 2, 3, 4, 5]]
    else:
        assert batch.labels_BT.tolist() == [[9, 10, 11, 12, 13, 14, 15], [2, 3, 4, 5, 6, 7, 16], [18, X, X, X, X, X, X]]
        assert batch.position_ids_BT is None
    assert sampler.padding_fraction == pytest.approx((0 + 0 + 6) / 21)


def padded(sampler: BestFitSampler) -> float:
    counts = [sum(count for _, count in sampler.content(sample)) - 1 for sample in range(sampler.num_samples)]
    return 1 - sum(counts) / (sampler.num_samples * sampler.sequence_length)


def test_the_padding_is_what_is_said_and_small_for_documents_sorted_by_length() -> None:
    draw = np.random.default_rng(0)
    lengths: npt.NDArray[np.int64] = draw.lognormal(np.log(300), 1.0, 6000).astype(np.int64)
    shards = [sorted(part.tolist()) for part in np.split(lengths, 4)]
    sampler = sampler_of(shards, 512, region=None, window=512)
    assert sampler.padding_fraction == pytest.approx(padded(sampler))
    assert sampler.padding_fraction < 0.02


@pytest.mark.parametrize("region", [None, 20])
def test_orders_visit_every_sample_once_and_windows_announce_where_they_read(region: int | None) -> None:
    sampler = sampler_of(random_shards(1), 24, region=region, window=5)
    heard: list[list[tuple[int, int]]] = []
    if region is None:
        sampler.shuffle(3)
    else:
        sampler.shuffle_windows(3, window_samples=region)
    sampler.announce = heard.append
    numbers = np.arange(sampler.num_samples)
    for epoch in range(2):
        assert sorted(sampler.positions(numbers + epoch * len(numbers))) == numbers.tolist()
    for number in numbers:
        sampler.batch(np.array([number]))
        if region is not None:
            begins = [start for start, _ in sampler.content(int(sampler.positions(np.array([number]))[0]))]
            documents = sampler.stream.documents(0, sampler.num_tokens)[0]
            of_documents = [documents[np.searchsorted(documents, begin, side="right") - 1] for begin in begins]
            assert all(any(start <= begin < stop for start, stop in heard[-1]) for begin in of_documents)
    assert bool(heard) == (region is not None)
