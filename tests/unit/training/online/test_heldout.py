"""The end figures of a run, by hand."""

import json
import math

import pytest

from training.online.heldout import HeldoutFigures, compare, figures_of


def figures(rewards: list[float], kl: float = 0.0) -> HeldoutFigures:
    return HeldoutFigures(rewards, distinct_answers=5, eos_rate=1.0, answer_length=2.0, kl=kl, kl_per_token=kl / 2)


def test_the_standard_error_is_that_of_the_paired_differences():
    """Prompts differ by far more than the gain on each, which an unpaired error would drown in."""
    metrics = compare(figures([0.0, 10.0, 20.0]), figures([1.0, 12.0, 21.0]), kl_ceiling=None)
    assert metrics["heldout_reward_before"] == 10.0
    assert metrics["heldout_reward_after"] == pytest.approx(34 / 3)
    # The differences 1, 2, 1 have mean 4/3 and variance (1/9 + 4/9 + 1/9) / 2 = 1/3.
    assert metrics["heldout_reward_se"] == pytest.approx(math.sqrt(1 / 3) / math.sqrt(3))


@pytest.mark.parametrize(("kl", "ceiling", "under"), [(1.0, 2.0, True), (2.1, 2.0, False), (99.0, None, True)])
def test_the_ceiling_is_compared_to_the_kl_of_the_end(kl, ceiling, under):
    metrics = compare(figures([0.0, 1.0]), figures([0.0, 1.0], kl=kl), kl_ceiling=ceiling)
    assert metrics["kl_under_ceiling"] is under
    assert metrics["kl_to_reference"] == kl


def test_figures_of_answers_by_hand():
    rows = [  # (prompt, score, KL of the answer, finished, answer)
        (0, 1.0, 0.2, True, (7,)),
        (0, 3.0, 0.4, True, (7, 8)),
        (1, 5.0, 0.6, False, (7, 8, 9)),
        (1, 6.0, 0.0, True, (7, 8)),
    ]
    found = figures_of(rows, num_prompts=2)
    assert found.rewards_H == [2.0, 5.5]
    assert found.distinct_answers == 3
    assert found.eos_rate == 0.75
    assert found.answer_length == 2.0
    assert found.kl == pytest.approx(0.3)
    assert found.kl_per_token == pytest.approx(1.2 / 8)


def test_figures_survive_a_checkpoint():
    found = figures([0.25, 1.5], kl=0.3)
    assert HeldoutFigures.from_json(json.loads(json.dumps(found.to_json()))) == found
