"""What a token (or answer) was worth beyond expectation: GAE, leave-one-out, group-relative; and whitening.

All are pure functions over tensors. Answers are left-aligned: `mask_BA` is True for the first `answer_length` tokens of
a row and False for its padding, where every result here is 0. PPO uses `gae` and `whiten`; `leave_one_out` (RLOO) and
`group_relative` (GRPO) are for trainings without a critic.

Shape letters: B answers, A answer tokens (padded), Q prompts, S samples of one prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SumOverRanks = Callable[[Tensor], Tensor]
"""Adds a tensor up over all ranks (an all-reduce); the same result on each."""

_EPSILON = 1e-8  # added to a variance before its square root


def one_rank(tensor: Tensor) -> Tensor:
    """The `SumOverRanks` of a single process."""
    return tensor


def gae(
    rewards_BA: Tensor, values_BA: Tensor, mask_BA: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns the critic is fitted to, both `[B, A]`.

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lambda * A_{t+1}, where the value after an
    answer's last token is 0; return_t = A_t + V_t. Source: Schulman et al. 2015 (arXiv:1506.02438), eq. 16.

    `rewards_BA[b, a]` is what came after token a; `values_BA[b, a]` is the critic's value of the state in which
    token a was chosen (that is, before it).
    """
    mask_BA = mask_BA.to(rewards_BA.dtype)
    num_tokens = rewards_BA.shape[1]
    advantages_BA = torch.zeros_like(rewards_BA)
    next_advantage_B = torch.zeros_like(rewards_BA[:, 0])
    next_value_B = torch.zeros_like(next_advantage_B)
    for t in reversed(range(num_tokens)):
        delta_B = rewards_BA[:, t] + gamma * next_value_B - values_BA[:, t]
        next_advantage_B = (delta_B + gamma * gae_lambda * next_advantage_B) * mask_BA[:, t]
        next_value_B = values_BA[:, t] * mask_BA[:, t]
        advantages_BA[:, t] = next_advantage_B
    return advantages_BA, (advantages_BA + values_BA) * mask_BA


def leave_one_out(scores_QS: Tensor) -> Tensor:
    """RLOO's advantage, `[Q, S]`: a score minus the mean of the other samples of the same prompt.

    Source: Ahmadian et al. 2024 (arXiv:2402.14740). Raises `ValueError` for fewer than two samples a prompt.
    """
    num_samples = _several_samples(scores_QS)
    baseline_QS = (scores_QS.sum(dim=1, keepdim=True) - scores_QS) / (num_samples - 1)
    return scores_QS - baseline_QS


def group_relative(scores_QS: Tensor, *, scale: bool) -> Tensor:
    """GRPO's advantage, `[Q, S]`: a score minus its prompt's mean, over its prompt's standard deviation if `scale`.

    Source: Shao et al. 2024 (arXiv:2402.03300); without the scale it is the form of Liu et al. 2025
    (arXiv:2503.20783), which does not favour prompts of little spread. A prompt whose samples all score alike
    gives 0. Raises `ValueError` for fewer than two samples a prompt.
    """
    _several_samples(scores_QS)
    centred_QS = scores_QS - scores_QS.mean(dim=1, keepdim=True)
    if not scale:
        return centred_QS
    return centred_QS * torch.rsqrt(scores_QS.var(dim=1, keepdim=True) + _EPSILON)


def whiten(
    values_BA: Tensor, mask_BA: Tensor, *, shift_mean: bool = True, sum_over_ranks: SumOverRanks = one_rank
) -> Tensor:
    """`values_BA` scaled to variance 1 (and, if `shift_mean`, mean 0) over all unmasked tokens of all ranks.

    The variance is the unbiased one (n - 1), as in TRL and verl. Sums are taken in two passes in float64, so
    the result does not depend on how answers are spread over ranks. Raises `ValueError` for fewer than two tokens.
    """
    wide_BA, mask_wide_BA = values_BA.double(), mask_BA.double()
    count, total = sum_over_ranks(torch.stack([mask_wide_BA.sum(), (wide_BA * mask_wide_BA).sum()]))
    if count < 2:
        raise ValueError(f"whitening needs at least two tokens over all ranks; there are {int(count)}")
    mean = total / count
    variance = sum_over_ranks(((wide_BA - mean).square() * mask_wide_BA).sum()) / (count - 1)
    whitened_BA = (wide_BA - mean) * torch.rsqrt(variance + _EPSILON)
    if not shift_mean:
        whitened_BA = whitened_BA + mean
    return (whitened_BA * mask_wide_BA).to(values_BA.dtype)


def _several_samples(scores_QS: Tensor) -> int:
    num_samples = scores_QS.shape[1]
    if num_samples < 2:
        raise ValueError(f"a group needs at least 2 samples of a prompt; there is {num_samples}")
    return num_samples
