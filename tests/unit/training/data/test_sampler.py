"""The order of samples: a bijection, complete, and the same on any number of ranks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from training.data.sample_order import KeyedPermutation
from training.data.sampler import IGNORE_INDEX, TokenSampler, rank_samples


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
@pytest.mark.parametrize("key", [(0, 0), (7, 3)])
def test_keyed_permutation_is_a_bijection(size: int, key: tuple[int, int]) -> None:
    image = KeyedPermutation(size, key)(np.arange(size))
    assert sorted(image) == list(range(size))


def test_keyed_permutation_of_a_huge_domain_costs_nothing_to_open() -> None:
    size = 10**15
    image = KeyedPermutation(size, (1,))(np.arange(1000))
    assert len(set(image.tolist())) == 1000
    assert image.min() >= 0
    assert image.max() < size


def test_keyed_permutation_looks_random() -> None:
    """Mean displacement of a random permutation is n/3, with a standard deviation of about 0.2 sqrt(n)."""
    n = 10_000
    image = KeyedPermutation(n, (5,))(np.arange(n))
    assert np.abs(image - np.arange(n)).mean() == pytest.approx(n / 3, abs=5 * 0.25 * n**0.5)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 5 / n**0.5


def test_other_keys_give_other_orders() -> None:
    orders = {tuple(KeyedPermutation(50, key)(np.arange(50))) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert len(orders) == 4


def shards_of(*lengths: int) -> list[np.ndarray]:
    """Shards whose tokens are their positions in the stream, so a token says where it came from."""
    ends = np.cumsum([0, *lengths])
    return [np.arange(a, b, dtype=np.uint16) for a, b in pairwise(ends)]


@pytest.mark.parametrize("lengths", [(41,), (40,), (7, 1, 0, 20, 13), (3, 3)])
def test_every_token_but_the_first_is_a_label_exactly_once_an_epoch(lengths: tuple[int, ...]) -> None:
    sampler = TokenSampler(shards_of(*lengths), sequence_length=8, seed=3)
    for epoch in range(3):
        numbers = np.arange(sampler.num_samples) + epoch * sampler.num_samples
        input_ids_BT, labels_BT, _ = sampler.batch(numbers)
        valid = labels_BT != IGNORE_INDEX
        assert sorted(labels_BT[valid]) == list(range(1, sum(lengths)))
        assert (labels_BT[valid] == input_ids_BT[valid] + 1).all()


def test_samples_equal_a_slow_cut_of_the_concatenated_stream() -> None:
    shards = shards_of(9, 30, 4, 22)
    stream = np.concatenate(shards)
    sampler = TokenSampler(shards, sequence_length=6, seed=None)
    for number in range(sampler.num_samples):
        input_ids_BT, labels_BT, _ = sampler.batch(np.array([number]))
        expected = stream[number * 6 : number * 6 + 7]
        np.testing.assert_array_equal(input_ids_BT[0, : len(expected) - 1], expected[:-1])
        np.testing.assert_array_equal(labels_BT[0, : len(expected) - 1], expected[1:])


def test_epochs_have_different_orders() -> None:
    sampler = TokenSampler(shards_of(400), sequence_length=4, seed=0)
    first, second = (sampler.positions(np.arange(100) + epoch * 100) for epoch in range(2))
    assert sorted(first) == sorted(second)
    assert (first != second).any()


def test_a_negative_number_is_a_sample_without_labels() -> None:
    _, labels_BT, _ = TokenSampler(shards_of(20), sequence_length=4, seed=1).batch(np.array([-1, 2]))
    assert (labels_BT[0] == IGNORE_INDEX).all()
    assert (labels_BT[1] != IGNORE_INDEX).all()


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 12), (1, 1), (2, 3), (3, 2), (4, 3), (6, 1)])
def test_a_step_has_the_same_samples_on_any_number_of_ranks(world_size: int, micro_batch_size: int) -> None:
    for step in (0, 5):
        parts = [
            rank_samples(
                step * 12, global_batch_size=12, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size
            )
            for rank in range(world_size)
        ]
        assert all(part.shape == (12 // (world_size * micro_batch_size), micro_batch_size) for part in parts)
        assert sorted(np.concatenate([part.ravel() for part in parts])) == list(range(step * 12, step * 12 + 12))


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="global batch 10 is no multiple of 4 x 1"):
        rank_samples(0, global_batch_size=10, micro_batch_size=4, rank=0, world_size=1)


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="1 tokens can't make a sample"):
        TokenSampler(shards_of(1), sequence_length=4, seed=0)


@pytest.mark.parametrize("sequence_length", [1, 4, 7, 64])
def test_documents_told_apart_equal_a_slow_walk_over_the_stream(sequence_length: int) -> None:
    documents = [[3, 1, 0, 6], [9], [2, 2, 11, 1]]  # lengths, by shard; one is empty
    shards = shards_of(*(sum(lengths) for lengths in documents))
    offsets = [np.cumsum([0, *lengths]).astype(np.int64) for lengths in documents]
    sampler = TokenSampler(shards, sequence_length, seed=None, offsets=offsets)
    document_of = np.repeat(np.arange(9), [length for lengths in documents for length in lengths])
    stream = np.concatenate(shards)
    for number in range(sampler.num_samples):
        batch = sampler.batch(np.array([number]))
        assert batch.position_ids_BT is not None
        for t in range(sequence_length):
            at = number * sequence_length + t
            if at + 1 >= len(stream):
                assert batch.labels_BT[0, t] == IGNORE_INDEX
                continue
            same = [i for i in range(number * sequence_length, at + 1) if document_of[i] == document_of[at]]
            assert batch.position_ids_BT[0, t] == at - same[0]
            next_is_ours = document_of[at + 1] == document_of[at]
            assert batch.labels_BT[0, t] == (stream[at + 1] if next_is_ours else IGNORE_INDEX)
