"""Learning rates against hand-computed numbers."""

from __future__ import annotations

import pytest

from training.schedules import SCHEDULES, cosine, linear, wsd


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_warmup_is_linear_and_ends_at_the_peak(name: str) -> None:
    rates = [SCHEDULES[name](s, lr=1.0, min_lr=0.1, warmup_steps=4, total_steps=20) for s in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_the_last_step_has_the_lowest_rate(name: str, warmup_steps: int) -> None:
    rate = SCHEDULES[name](99, lr=1.0, min_lr=0.1, warmup_steps=warmup_steps, total_steps=100)
    assert rate == pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_rates_never_rise_after_the_warmup(name: str) -> None:
    rates = [SCHEDULES[name](s, lr=3e-4, min_lr=0.0, warmup_steps=10, total_steps=200) for s in range(10, 200)]
    assert rates == sorted(rates, reverse=True)


def test_cosine_is_half_way_in_the_middle_and_a_known_number_at_a_quarter() -> None:
    def rate(step: int) -> float:
        return cosine(step, lr=1.0, min_lr=0.0, warmup_steps=0, total_steps=101)

    assert rate(50) == pytest.approx(0.5)
    assert rate(25) == pytest.approx(0.8535533905932737)  # (1 + cos 45 degrees) / 2


def test_linear_is_a_straight_line() -> None:
    rates = [linear(s, lr=1.0, min_lr=0.2, warmup_steps=0, total_steps=5) for s in range(5)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_wsd_is_constant_and_then_decays_by_one_minus_square_root() -> None:
    def rate(step: int) -> float:
        return wsd(step, lr=1.0, min_lr=0.0, warmup_steps=0, total_steps=505, decay_fraction=0.2)

    assert rate(0) == rate(403) == 1.0
    assert rate(404) == 1.0  # the decay starts here and ends 100 steps later
    assert rate(404 + 25) == pytest.approx(0.5)
    assert rate(404 + 64) == pytest.approx(0.2)


def test_one_step_in_all_is_taken_at_the_peak() -> None:
    assert cosine(0, lr=1.0, min_lr=0.0, warmup_steps=1, total_steps=1) == 1.0
