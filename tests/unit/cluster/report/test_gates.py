from typing import Any

import pytest

from cluster.report.gates import readings

PPO = {
    "heldout_reward_before": 1.0,
    "heldout_reward_after": 1.3,
    "heldout_reward_se": 0.1,
    "kl_to_reference": 2.0,
    "kl_ceiling": 8.0,
    "distinct_answers_before": 10,
    "distinct_answers_after": 5,
}


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, set()),
        ({"heldout_reward_se": 0.16}, {"heldout_reward_after"}),  # under two standard errors
        ({"kl_to_reference": 8.5}, {"kl_to_reference"}),
        ({"distinct_answers_after": 4}, {"distinct_answers_after"}),
    ],
)
def test_ppo_must_beat_its_margins(changes: dict[str, Any], failing: set[str]) -> None:
    assert {r.figure for r in readings("ppo", PPO | changes) if not r.holds} == failing


def test_margins_of_the_other_stages() -> None:
    (base,) = readings("pretrain", {"heldout_loss": 5.6, "unigram_entropy": 6.0})
    assert (base.bound, base.holds) == (5.5, False)
    (dpo,) = readings("dpo", {"heldout_preference_accuracy": 0.71})
    assert (dpo.against, dpo.holds) == ("chance", True)
    against_length, against_words = readings(
        "reward_model",
        {
            "heldout_pair_accuracy": 0.8,
            "length_baseline_accuracy": 0.5,
            "bag_of_words_baseline_accuracy": 0.7,
        },
    )
    assert against_length.holds
    assert not against_words.holds


def test_figures_that_are_not_there_are_not_read() -> None:
    assert readings("ppo", {"heldout_reward_after": 1.0}) == []
    assert readings("ppo", {"heldout_reward_after": 1.0, "heldout_reward_before": 0.0}) == []  # no standard error
    assert readings("pretrain", {"heldout_loss": None, "unigram_entropy": 6.0}) == []
    assert readings("tokenize", PPO) == []
