"""Draws by content have the right share and do not depend on the corpus; shares by weight are computed by hand."""

import numpy as np
import pytest

from dataprep.sampling import drawn, epochs, temperature_factors

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


def test_temperature_gives_shares_in_proportion_to_the_root() -> None:
    sizes = np.array([900.0, 100.0, 0.0])
    shares = sizes * temperature_factors(sizes, 2.0)
    assert shares / shares.sum() == pytest.approx([0.75, 0.25, 0])
    assert temperature_factors(sizes, 1.0) == pytest.approx([1, 1, 0])
    with pytest.raises(ValueError, match=r"at least 1; got 0\.5"):
        temperature_factors(sizes, 0.5)


def test_groups_come_in_proportion_to_size_and_weight() -> None:
    sizes, weights = np.array([100.0, 100.0, 200.0]), np.array([1.0, 3.0, 0.0])
    assert epochs(sizes, weights, total=200, max_epochs=4) == pytest.approx([0.5, 1.5, 0])


def test_what_the_limit_cuts_off_goes_to_the_others_until_all_are_at_it() -> None:
    sizes, weights = np.array([10.0, 100.0, 100.0]), np.array([100.0, 2.0, 1.0])
    found = epochs(sizes, weights, total=200, max_epochs=2)
    assert found == pytest.approx([2, 1.2, 0.6])
    assert (found * sizes).sum() == pytest.approx(200)
    assert epochs(sizes, weights, total=1000, max_epochs=2) == pytest.approx([2, 2, 2])
