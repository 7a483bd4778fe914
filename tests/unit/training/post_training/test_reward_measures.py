import numpy as np
import pytest
from scipy.stats import kendalltau

from tests.unit.training.feedback.feedback_rows import pair
from training.post_training.reward_measures import accuracy_by_subset, calibration, kendall_tau


def test_tau_is_scipys_where_nothing_is_tied() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        rewards, truth = generator.normal(size=7), generator.normal(size=7)
        assert kendall_tau(rewards.tolist(), truth.tolist()) == pytest.approx(kendalltau(rewards, truth).statistic)


def test_ties_of_the_truth_do_not_count_and_those_of_rewards_count_nothing() -> None:
    assert kendall_tau([3, 1, 2], [2, 1, 1]) == 1.0
    assert kendall_tau([1, 1], [2, 1]) == 0.0
    assert kendall_tau([1, 2], [1, 1]) is None


def test_a_calibrated_judge_has_a_small_error_and_a_bold_one_a_large_one() -> None:
    generator = np.random.default_rng(0)
    probability = generator.uniform(0.5, 1.0, 20_000)
    margins = np.log(probability / (1 - probability))
    signs = np.where(generator.random(20_000) < probability, 1, -1)
    bins, error = calibration(margins * signs)
    assert error < 0.02
    assert sum(row["pairs"] for row in bins) == 20_000
    assert all(abs(row["predicted"] - row["observed"]) < 0.05 for row in bins)
    _, bold = calibration(10 * margins * signs)
    assert bold > 0.15


def test_accuracy_is_given_by_topic_and_source_where_there_are_several() -> None:
    rows = [pair("p", "a", "b", topic="sums"), pair("q", "a", "b", topic="poems"), pair("r", "a", "b", topic="sums")]
    found = accuracy_by_subset(rows, np.array([1.0, -1.0, 0.0]))
    assert found == [
        {"subset": "topic: sums", "accuracy": 0.75, "pairs": 2},
        {"subset": "topic: poems", "accuracy": 0.0, "pairs": 1},
    ]
