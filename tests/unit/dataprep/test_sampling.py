"""How often groups come: shares by size, weight and temperature, computed by hand."""

import numpy as np
import pytest

from dataprep.sampling import epochs, temperature_factors


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
