"""Losses, KL estimators and token rewards: hand-computed numbers, gradients and invariants.

Shape letters: B answers, A answer tokens, V vocabulary.
"""

import math

import pytest
import torch

from training.online import kl
from training.online.losses import policy_loss, token_mean, value_loss
from training.online.rewards import shape_scores, token_rewards


def of_ratio(ratio: float, advantage: float, dual_clip: float | None = None) -> tuple[float, bool, float]:
    """(loss, whether clipped, d loss / d logprob) of a token whose probability became `ratio` times the old one."""
    logprob = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss, clipped = policy_loss(
        logprob, torch.zeros(1, 1), torch.tensor([[advantage]]), clip_range=0.2, dual_clip=dual_clip
    )
    loss.sum().backward()
    assert logprob.grad is not None
    return loss.item(), bool(clipped), logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "gradient"),
    [
        (1.0, 2.0, -2.0, False, -2.0),  # unmoved: the plain policy gradient
        (1.1, 2.0, -2.2, False, -2.2),  # inside the range
        (1.5, 2.0, -2.4, True, 0.0),  # good, and far enough: 1.2 x 2
        (0.5, 2.0, -1.0, False, -1.0),  # good, and gone down: pulled back
        (0.5, -2.0, 1.6, True, 0.0),  # bad, and far enough down: 0.8 x 2
        (1.5, -2.0, 3.0, False, 3.0),  # bad, and gone up: pushed down
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, clipped, gradient):
    assert of_ratio(ratio, advantage) == (pytest.approx(loss), clipped, pytest.approx(gradient, abs=1e-6))


def test_dual_clip_bounds_the_loss_of_bad_tokens_that_ran_away_and_of_no_others():
    assert of_ratio(8.0, -2.0, dual_clip=3.0) == (pytest.approx(6.0), True, pytest.approx(0.0))
    assert of_ratio(2.5, -2.0, dual_clip=3.0) == of_ratio(2.5, -2.0)
    assert of_ratio(8.0, 2.0, dual_clip=3.0) == of_ratio(8.0, 2.0)


def test_value_loss_takes_the_worse_of_the_free_and_the_held_error():
    values, old, returns = (torch.tensor([[x, y]]) for x, y in ((1.0, 0.1), (0.0, 0.0), (2.0, 0.0)))
    loss, clipped = value_loss(values, old, returns, clip_range=0.5)
    assert torch.allclose(loss, 0.5 * torch.tensor([[1.5**2, 0.1**2]]))
    assert clipped.tolist() == [[True, False]]
    assert torch.allclose(value_loss(values, old, returns, clip_range=None)[0], 0.5 * torch.tensor([[1.0, 0.1**2]]))


def test_the_loss_of_a_minibatch_is_the_sum_of_its_shards_losses_however_it_is_cut():
    generator = torch.Generator().manual_seed(0)
    mask_BA = torch.arange(9) < torch.tensor([9, 1, 4, 7, 2, 6]).unsqueeze(1)
    loss_BA = torch.randn(6, 9, generator=generator)
    whole = token_mean(loss_BA, mask_BA, int(mask_BA.sum()))
    assert float(whole) == pytest.approx(float(loss_BA[mask_BA].mean()), abs=1e-6)
    for sizes in ([1, 5], [2, 2, 2], [3, 1, 1, 1]):
        shards = zip(loss_BA.split(sizes), mask_BA.split(sizes), strict=True)
        assert float(sum(token_mean(v, m, int(mask_BA.sum())) for v, m in shards)) == pytest.approx(
            float(whole), abs=1e-6
        )


def test_token_mean_does_not_see_what_is_in_the_padding():
    values = torch.tensor([[1.0, math.nan]])
    assert float(token_mean(values, torch.tensor([[True, False]]), 1)) == 1.0


def test_every_kl_estimate_is_zero_when_policy_equals_reference():
    logprobs = -torch.rand(3, 4)
    for estimator in kl.ESTIMATORS.values():
        assert not estimator(logprobs, logprobs).any()


def test_k1_and_k3_are_unbiased_and_near_the_reference_k3_has_less_variance():
    """Their expectations under the policy, taken exactly over a small vocabulary, are the KL divergence."""
    generator = torch.Generator().manual_seed(0)
    logits_V, shift_V = (torch.randn(9, generator=generator).double() for _ in range(2))
    policy_V, reference_V = torch.log_softmax(logits_V, 0), torch.log_softmax(logits_V + 0.3 * shift_V, 0)
    exact = float((policy_V.exp() * (policy_V - reference_V)).sum())
    moments = {}
    for name, estimator in kl.ESTIMATORS.items():
        values_V = estimator(policy_V, reference_V)
        mean = float((policy_V.exp() * values_V).sum())
        moments[name] = (mean, float((policy_V.exp() * (values_V - mean) ** 2).sum()))
    assert moments["k1"][0] == pytest.approx(exact, rel=1e-6)
    assert moments["k3"][0] == pytest.approx(exact, rel=1e-6)
    assert moments["k3"][1] < moments["k1"][1]


def test_in_the_loss_k1_has_no_gradient_in_expectation_and_k2_has_that_of_the_kl():
    """Why the config refuses k1 in the loss."""
    logits_V = torch.randn(9, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    reference_V = torch.log_softmax(torch.randn(9, generator=torch.Generator().manual_seed(1)), 0).double()
    policy_V = torch.log_softmax(logits_V, 0)
    probabilities_V = policy_V.exp()

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, logits_V, retain_graph=True)[0]

    of_kl = gradient((probabilities_V * (policy_V - reference_V)).sum())
    sampled = probabilities_V.detach()  # where tokens come from: no gradient passes through sampling
    assert torch.allclose(gradient((sampled * kl.k1(policy_V, reference_V)).sum()), torch.zeros(9).double())
    assert torch.allclose(gradient((sampled * kl.k2(policy_V, reference_V)).sum()), of_kl)


def test_scores_are_clipped_before_an_unfinished_answer_pays_its_penalty():
    scores = torch.tensor([9.0, 9.0, -9.0, 1.0])
    finished = torch.tensor([True, False, True, True])
    shaped = shape_scores(scores, finished, reward_clip=5.0, missing_eos_penalty=1.0)
    assert shaped.tolist() == [5.0, 4.0, -5.0, 1.0]
    assert torch.equal(shape_scores(scores, finished, reward_clip=None, missing_eos_penalty=None), scores)


def test_the_score_lands_on_the_last_token_and_the_penalty_on_each():
    mask_BA = torch.tensor([[True, True, False], [True, True, True]])
    kl_BA = torch.tensor([[1.0, 2.0, 99.0], [0.0, 1.0, 3.0]])
    rewards_BA = token_rewards(torch.tensor([10.0, -10.0]), kl_BA, mask_BA, kl_coef=0.5)
    assert rewards_BA.tolist() == [[-0.5, 9.0, 0.0], [0.0, -0.5, -11.5]]


def test_an_answer_without_a_token_is_refused():
    with pytest.raises(ValueError, match="no token"):
        token_rewards(torch.ones(1), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), kl_coef=0.0)
