import numpy as np
import pytest
from scipy.optimize import minimize

from training.feedback.pair_baselines import bag_of_words_accuracy, fit_differences, length_accuracy, pair_accuracy


def test_ties_count_half() -> None:
    assert pair_accuracy([2.0, 0.0, -1.0, 0.0]) == (1 + 0.5 + 0 + 0.5) / 4


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        pair_accuracy([])


def test_one_feature_fit_solves_its_first_order_condition() -> None:
    # Ten pairs that differ by +1: w = 10 (1 - sigmoid(w)) at l2 = 1, which Newton in one variable solves as 1.7494...
    weight = fit_differences(np.ones((10, 1)))[0]
    assert weight == pytest.approx(10 / (1 + np.exp(weight)), abs=1e-9)


@pytest.mark.parametrize("shape", [(40, 5), (6, 30)])
def test_fit_agrees_with_a_general_optimizer(shape: tuple[int, int]) -> None:
    differences_PF = np.random.default_rng(0).normal(size=shape)

    def objective(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -differences_PF @ weights).sum() + 0.5 * weights @ weights)

    reference = minimize(objective, np.zeros(shape[1]), options={"gtol": 1e-8}).x
    np.testing.assert_allclose(fit_differences(differences_PF), reference, atol=1e-4)


def test_lengths_are_learnt_in_either_direction() -> None:
    shorter_wins = -np.abs(np.random.default_rng(1).normal(size=(50, 2))) - 0.1
    assert length_accuracy(shorter_wins, shorter_wins[:10]) == 1.0
    assert length_accuracy(shorter_wins, -shorter_wins[:10]) == 0.0


def test_equal_lengths_leave_a_coin_flip() -> None:
    assert length_accuracy(np.zeros((5, 3)), np.zeros((4, 3))) == 0.5


def test_words_are_told_apart_by_counts_and_not_by_order() -> None:
    train = [("thank you kindly", "go away now"), ("yes thank you", "no go away")]
    assert bag_of_words_accuracy(train, [("oh thank you", "oh go away")]) == 1.0
    assert bag_of_words_accuracy(train, [("thank you now go", "go now you thank")]) == 0.5
    assert bag_of_words_accuracy(train, [("unseen words", "other things")]) == 0.5
