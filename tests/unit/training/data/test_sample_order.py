"""Orders of samples: each a bijection, the same on any number of ranks and wherever a run is resumed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from training.data.sample_order import WindowedOrder
from training.data.sampler import Sampler, TokenSampler, rank_samples


def sampler_of(num_samples: int, order: str, *, window: int = 7) -> Sampler:
    sampler = TokenSampler([np.arange(num_samples * 4 + 1, dtype=np.uint16)], 4, None)
    if order == "windows":
        sampler.shuffle_windows(5, window_samples=window)
    else:
        sampler.shuffle(5)
    return sampler


@pytest.mark.parametrize("num_samples", [1, 6, 7, 8, 50, 63])
@pytest.mark.parametrize("order", ["samples", "windows"])
def test_every_sample_comes_once_an_epoch_and_epochs_differ(num_samples: int, order: str) -> None:
    sampler = sampler_of(num_samples, order)
    epochs = [sampler.positions(np.arange(num_samples) + epoch * num_samples).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(num_samples)) for epoch in epochs)
    if num_samples > 6:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_windows_are_visited_one_after_the_other_in_a_random_order_and_shuffled_within() -> None:
    sampler = sampler_of(7 * 40 + 3, "windows")  # the last window has 3
    positions = sampler.positions(np.arange(sampler.num_samples))
    windows = positions // 7
    changes = np.flatnonzero(np.diff(windows)) + 1
    visited = windows[np.concatenate([[0], changes])]
    assert sorted(visited) == list(range(41))  # each in one go
    assert visited.tolist() != sorted(visited)
    inside = [tuple(positions[windows == window] % 7) for window in range(40)]
    assert all(sorted(window) == list(range(7)) for window in inside)
    assert len(set(inside)) > 20  # in an order of its own each


@pytest.mark.parametrize("order", ["samples", "windows"])
@pytest.mark.parametrize("seed", range(4))
def test_any_division_among_ranks_and_any_resume_visits_the_same_samples(order: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    num_samples, window = int(draw.integers(20, 200)), int(draw.integers(2, 40))
    whole = sampler_of(num_samples, order, window=window).positions(np.arange(5 * 24))
    for world_size, micro_batch_size in ((1, 24), (2, 3), (3, 2), (4, 6), (8, 1)):
        ranks = [sampler_of(num_samples, order, window=window) for _ in range(world_size)]
        first = int(draw.integers(0, 4))  # resumed at this step, by samplers that saw nothing before
        for step in range(first, 5):
            found = [
                sampler.positions(rank_samples(
                    step * 24, global_batch_size=24, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size
                ))
                for rank, sampler in enumerate(ranks)
            ]  # fmt: skip
            assert np.concatenate(found, axis=1).ravel().tolist() == whole[step * 24 : step * 24 + 24].tolist()


def test_the_window_at_hand_and_the_next_are_announced_as_ranges_of_the_stream() -> None:
    sampler = sampler_of(35, "windows")
    heard: list[list[tuple[int, int]]] = []
    sampler.announce = heard.append
    for first in range(0, 70, 5):
        positions = sampler.positions(np.arange(first, first + 5))
        sampler.batch(np.arange(first, first + 5))
        spans = heard[-1]
        last = positions[-1] * 4  # where the newest sample of the batch begins
        assert any(start <= last < stop for start, stop in spans)
    assert [len(spans) for spans in heard] == [2] * 10  # five windows an epoch
    for now, then in pairwise(heard):
        assert now[1] == then[0]  # what was announced as the next came next, over the end of an epoch too


def test_windows_must_be_complete() -> None:
    with pytest.raises(ValueError, match="begin with sample 0"):
        WindowedOrder(np.array([1, 3]), 0)
    with pytest.raises(ValueError, match="at least one sample"):
        WindowedOrder(np.array([0, 3, 3]), 0)
