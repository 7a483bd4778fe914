"""One-bit sketches: the estimate against the similarity it stands for."""

import numpy as np
import pytest

from dataprep.signatures.bit_sketch import most_differing, num_differing, similarities, sketches


@pytest.mark.parametrize("similarity", [0.0, 0.55, 0.9, 1.0])
def test_the_estimate_is_unbiased_and_as_precise_as_stated(similarity: float) -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 2**32, (4000, 160), dtype=np.uint32)
    second = np.where(rng.random(first.shape) < similarity, first, rng.integers(0, 2**32, first.shape, dtype=np.uint32))
    a, b = sketches(first), sketches(second)
    differing = np.array([num_differing(x, y) for x, y in zip(a, b, strict=True)])
    estimates = 1 - 2 * differing / 160
    deviation = np.sqrt((1 - similarity**2) / 160)
    assert estimates.mean() == pytest.approx(similarity, abs=5 * deviation / np.sqrt(4000))
    assert estimates.std() == pytest.approx(deviation, abs=0.01)
    assert np.allclose(similarities(a, b, 160), np.clip(estimates, 0, 1), atol=1e-6)


def test_the_threshold_in_bits_is_that_of_the_estimate() -> None:
    for similarity in (0.1, 0.55, 0.8):
        most = most_differing(similarity, 160)
        assert 1 - 2 * most / 160 >= similarity - 1e-9 > 1 - 2 * (most + 1) / 160
