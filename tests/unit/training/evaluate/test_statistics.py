"""Intervals and differences: against scipy, by hand, and by whether they cover the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.post_training.coverage import SIMULATIONS, coverage
from training.evaluate.items import values_of
from training.evaluate.statistics import ItemValues, difference, interval, mcnemar


def plain(numbers: list[float]) -> ItemValues:
    """Independent items that count once each."""
    return values_of((str(n), str(n), number, 1.0) for n, number in enumerate(numbers))


def test_the_interval_of_a_proportion_is_wilsons() -> None:
    found = interval(plain([1.0] * 17 + [0.0] * 5))
    expected = stats.binomtest(17, 22).proportion_ci(0.95, method="wilson")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_ratio_weighs_items_by_their_denominators() -> None:
    assert values_of([("a", "a", 3.0, 1.0), ("b", "b", 1.0, 3.0)]).value == 1.0
    assert math.isnan(values_of([]).value)


def test_all_right_is_no_certainty() -> None:
    found = interval(plain([1.0] * 20))
    assert found is not None
    assert found.high == 1.0
    assert 0.8 < found.low < 0.9
    clustered = interval(values_of((str(n), str(n // 4), 1.0, 1.0) for n in range(20)))
    assert clustered is not None
    assert clustered.low < found.low  # five prompts say less than twenty


def test_ties_alone_do_not_show_two_models_to_be_equal() -> None:
    found = interval(plain([0.5] * 20))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.3, 0.7), abs=0.01)


def test_few_items_have_wide_intervals_or_none() -> None:
    assert interval(plain([1.5])) is None
    two, many = interval(plain([1.0, 2.0])), interval(plain([1.0, 2.0] * 50))
    assert two is not None
    assert many is not None
    assert two.high - two.low > 3 * (many.high - many.low)


def test_the_interval_of_a_mean_is_students_where_that_is_exact() -> None:
    numbers = np.random.default_rng(0).normal(3.0, 2.0, 60)
    found = interval(plain(numbers.tolist()))
    low, high = stats.t.interval(0.95, 59, numbers.mean(), stats.sem(numbers))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1)


def test_copies_of_items_in_their_clusters_do_not_narrow_an_interval() -> None:
    numbers = np.random.default_rng(1).exponential(1.0, 50)
    once = interval(plain(numbers.tolist()))
    thrice = interval(values_of((f"{n}.{k}", str(n), x, 1.0) for n, x in enumerate(numbers) for k in range(3)))
    assert once is not None
    assert thrice is not None
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_what_items_have_in_common_drops_out_of_a_difference() -> None:
    hard = np.random.default_rng(2).normal(0.0, 5.0, 80)
    noise = np.random.default_rng(3).normal(0.3, 0.1, 80)
    first, second = plain((hard + noise).tolist()), plain(hard.tolist())
    found = difference(first, second)
    assert found.interval is not None
    assert found.value == pytest.approx(noise.mean())
    assert found.interval.high - found.interval.low < 0.1
    assert found.p is not None
    assert found.p < 0.01
    alone = interval(first)
    assert alone is not None
    assert alone.high - alone.low > 1.0


def test_very_many_items_are_taken_together_without_another_interval() -> None:
    numbers = np.random.default_rng(4).exponential(1.0, 20_000)
    found = interval(plain(numbers.tolist()))
    low, high = stats.t.interval(0.95, 19_999, numbers.mean(), stats.sem(numbers))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.002)


def test_only_shared_items_are_compared() -> None:
    first = values_of([("a", "a", 1.0, 1.0), ("b", "b", 5.0, 1.0), ("c", "c", 2.0, 1.0)])
    second = values_of([("c", "c", 1.0, 1.0), ("a", "a", 0.0, 1.0), ("d", "d", 9.0, 1.0)])
    found = difference(first, second)
    assert (found.value, found.num_items) == (1.0, 2)
    with pytest.raises(ValueError, match="no item in common"):
        difference(first, values_of([("z", "z", 1.0, 1.0)]))


def test_mcnemars_p_is_that_of_a_fair_coin_on_the_items_that_differ() -> None:
    first = np.array([True] * 9 + [False] + [True] * 30)
    second = np.array([False] * 9 + [True] + [True] * 30)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)
    found = difference(plain(first.astype(float).tolist()), plain(second.astype(float).tolist()))
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(first, first) == 1.0


def test_models_that_differ_on_no_item_are_not_shown_to_be_equal() -> None:
    right = plain([1.0, 0.0] * 20)
    found = difference(right, right)
    assert (found.value, found.p) == (0.0, 1.0)
    assert found.interval is not None
    assert 0.05 < found.interval.high < 0.15
    assert found.interval.low == -found.interval.high


@pytest.mark.parametrize("name", SIMULATIONS)
def test_intervals_cover_the_truth_as_often_as_they_say(name: str) -> None:
    """300 simulated evaluations of each kind; the benchmark makes 1,000. The bounds are four standard errors."""
    assert coverage(name, 300) == pytest.approx(0.95, abs=0.05)
