"""The draw by content: right share, the same for the same content, independent between seeds."""

import numpy as np

from dataprep.split import drawn

HASHES = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)


def test_the_share_is_the_fraction_within_sampling_error() -> None:
    for fraction in (0.01, 0.3, 0.9):
        share = drawn(HASHES, fraction=fraction, seed=0).mean()
        assert abs(share - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / len(HASHES))


def test_none_and_all_are_exact() -> None:
    assert not drawn(HASHES, fraction=0.0, seed=3).any()
    assert drawn(HASHES, fraction=1.0, seed=3).all()


def test_a_larger_fraction_contains_a_smaller_one_and_seeds_are_independent() -> None:
    small, large = (drawn(HASHES, fraction=f, seed=1) for f in (0.1, 0.4))
    assert not (small & ~large).any()
    other = drawn(HASHES, fraction=0.4, seed=2)
    assert abs((large & other).mean() - 0.16) < 0.01


def test_sequential_hashes_are_drawn_evenly_too() -> None:
    assert abs(drawn(np.arange(100_000, dtype=np.uint64), fraction=0.5, seed=0).mean() - 0.5) < 0.01
