"""What counts as a bad step, and what is done about it."""

import math
import random

import pytest

from training.pretrain.divergence import DivergenceSettings, LossWatch


def watch_after(losses: list[float], **settings: object) -> LossWatch:
    watch = LossWatch(DivergenceSettings(**settings))  # type: ignore[arg-type]
    for loss in losses:
        assert watch.judge(loss) is None
        watch.accept(loss)
    return watch


NOISY = [5.0 + random.Random(seed).gauss(0, 0.05) for seed in range(64)]


def test_limit_is_so_many_robust_deviations_over_the_median() -> None:
    """64 draws of a normal distribution with deviation 0.05: the limit lies near 5 + 6 x 0.05."""
    limit = watch_after(NOISY, spike_deviations=6.0).limit()
    assert limit == pytest.approx(5.3, abs=0.06)


def test_one_spike_does_not_raise_the_bar_for_the_next() -> None:
    watch = watch_after(NOISY, spike="log")
    before = watch.limit()
    watch.accept(50.0)
    after = watch.limit()
    assert before is not None
    assert after == pytest.approx(before, rel=0.01)


@pytest.mark.parametrize("action", ["log", "skip", "rewind"])
def test_spike_gets_the_action_asked_for(action: str) -> None:
    verdict = watch_after(NOISY, spike=action).judge(7.0)
    assert verdict is not None
    assert (verdict.trouble, verdict.action) == ("spike", action)
    assert "jumped to 7" in verdict.message


def test_spikes_can_be_ignored_but_numbers_that_are_none_cannot() -> None:
    watch = watch_after(NOISY, spike="ignore")
    assert watch.judge(700.0) is None
    verdict = watch.judge(math.nan)
    assert verdict is not None
    assert verdict.action == "stop"
    gradient = watch.judge_gradient(math.inf)
    assert gradient is not None
    assert gradient.message == "the gradient's norm is inf"


def test_no_spike_is_called_of_the_first_losses() -> None:
    assert watch_after([9.0, 8.0, 7.0]).judge(40.0) is None


def test_falling_and_constant_losses_are_no_spikes() -> None:
    watch_after([10 * 0.99**step for step in range(300)])
    watch_after([3.0] * 50 + [3.01] * 50)


def test_too_many_events_stop_the_run() -> None:
    watch = watch_after(NOISY, spike="skip", max_events=2)
    assert [watch.judge(9.0).action for _ in range(3)] == ["skip", "skip", "stop"]  # type: ignore[union-attr]


def test_watch_goes_on_from_its_state() -> None:
    watch = watch_after(NOISY, spike="skip")
    watch.judge(9.0)
    resumed = LossWatch(watch.settings, **watch.state())
    assert resumed.limit() == watch.limit()
    assert resumed.events == 1
    assert watch.rewound(LossWatch(watch.settings).state()).events == 1
    assert watch.rewound(LossWatch(watch.settings).state()).limit() is None
