"""GAE, group advantages and whitening against slow twins, closed forms and hand-computed numbers.

Shape letters: B answers, A answer tokens, Q prompts, S samples.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from training.online.advantages import gae, group_relative, leave_one_out, whiten


def ragged(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def slow_gae(rewards, values, gamma, lam):
    """One answer: every advantage as its own sum of discounted temporal differences (eq. 16, not the recursion)."""
    length = len(rewards)
    next_values = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * next_values[t] - values[t] for t in range(length)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]


def test_gae_of_two_tokens_by_hand():
    rewards, values = torch.tensor([[0.5, 1.0]]), torch.tensor([[0.2, 0.4]])
    advantages, returns = gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), gamma=0.9, gae_lambda=0.5)
    # delta_1 = 1 - 0.4 = 0.6; delta_0 = 0.5 + 0.9 * 0.4 - 0.2 = 0.66; A_0 = 0.66 + 0.45 * 0.6
    assert torch.allclose(advantages, torch.tensor([[0.93, 0.6]]))
    assert torch.allclose(returns, torch.tensor([[1.13, 1.0]]))


def test_gae_equals_its_slow_twin_on_ragged_answers():
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 7, 4, 9]
    mask_BA = ragged(lengths)
    rewards_BA, values_BA = (torch.randn(4, 9, generator=generator) for _ in range(2))  # junk in the padding, too
    advantages_BA, returns_BA = gae(rewards_BA, values_BA, mask_BA, gamma=0.97, gae_lambda=0.9)
    for b, length in enumerate(lengths):
        expected = slow_gae(rewards_BA[b, :length].tolist(), values_BA[b, :length].tolist(), 0.97, 0.9)
        assert advantages_BA[b, :length].tolist() == pytest.approx(expected, abs=1e-5)
        assert returns_BA[b, :length].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values_BA[b, :length].tolist(), strict=True)], abs=1e-5
        )
        assert not advantages_BA[b, length:].any()
        assert not returns_BA[b, length:].any()


def test_gae_with_lambda_one_gives_the_discounted_sum_of_rewards_as_return():
    rewards_BA = torch.tensor([[1.0, 2.0, 3.0]])
    values_BA = torch.tensor([[5.0, -7.0, 11.0]])
    _, returns_BA = gae(rewards_BA, values_BA, torch.ones(1, 3, dtype=torch.bool), gamma=0.5, gae_lambda=1.0)
    assert torch.allclose(returns_BA, torch.tensor([[1 + 1 + 0.75, 2 + 1.5, 3.0]]))


def test_leave_one_out_by_hand():
    assert torch.allclose(leave_one_out(torch.tensor([[1.0, 2.0, 6.0]])), torch.tensor([[-3.0, -1.5, 4.5]]))


def test_leave_one_out_is_the_centred_score_times_s_over_s_minus_one():
    scores_QS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(leave_one_out(scores_QS), group_relative(scores_QS, scale=False) * 4 / 3, atol=1e-6)


def test_group_relative_is_scipys_zscore_per_prompt():
    scores_QS = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    expected = stats.zscore(scores_QS.numpy(), axis=1, ddof=1)
    assert np.allclose(group_relative(scores_QS, scale=True).numpy(), expected, atol=1e-5)


def test_a_prompt_whose_samples_score_alike_teaches_nothing():
    assert not group_relative(torch.full((1, 4), 3.0), scale=True).any()


@pytest.mark.parametrize("advantage", [leave_one_out, lambda s: group_relative(s, scale=True)])
def test_one_sample_is_no_group(advantage):
    with pytest.raises(ValueError, match="at least 2 samples"):
        advantage(torch.ones(3, 1))


def test_whitened_tokens_have_mean_zero_and_variance_one_and_the_padding_stays_zero():
    mask_BA = ragged([3, 8, 5])
    values_BA = 4 + 3 * torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
    whitened_BA = whiten(values_BA, mask_BA)
    inside = whitened_BA[mask_BA]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-6)
    assert float(inside.var()) == pytest.approx(1, abs=1e-5)
    assert not whitened_BA[~mask_BA].any()
    kept_mean = whiten(values_BA, mask_BA, shift_mean=False)[mask_BA]
    assert float(kept_mean.mean()) == pytest.approx(float(values_BA[mask_BA].mean()), abs=1e-5)


def test_whitening_keeps_its_figures_far_from_zero():
    """One pass over squares in float32 would lose the variance here."""
    values_BA = 1e4 + torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert float(whiten(values_BA, torch.ones(1, 4, dtype=torch.bool)).var()) == pytest.approx(1, abs=1e-5)


def test_whitening_one_token_is_refused():
    with pytest.raises(ValueError, match="there are 1"):
        whiten(torch.ones(2, 3), torch.tensor([[True, False, False], [False, False, False]]))
