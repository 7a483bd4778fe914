"""Turns one score per answer into one reward per token: the score on the last token, the KL penalty on each.

Shape letters: B answers, A answer tokens (padded; left-aligned, see `advantages.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def shape_scores(
    scores_B: Tensor, finished_B: Tensor, *, reward_clip: float | None, missing_eos_penalty: float | None
) -> Tensor:
    """Scores as the optimiser sees them, `[B]`: clipped to +-`reward_clip`, then less the penalty where unfinished.

    `finished_B` is True where the answer ended by itself (an end-of-turn token) rather than at the length limit.
    The penalty comes after the clip, so an unfinished answer is always worse than the same score finished.
    """
    if reward_clip is not None:
        scores_B = scores_B.clamp(-reward_clip, reward_clip)
    if missing_eos_penalty is not None:
        scores_B = torch.where(finished_B, scores_B, scores_B - missing_eos_penalty)
    return scores_B


def token_rewards(scores_B: Tensor, kl_BA: Tensor, mask_BA: Tensor, *, kl_coef: float) -> Tensor:
    """`-kl_coef * kl` on each token, plus the score on the answer's last one; `[B, A]`, 0 in the padding.

    On the last token as in OpenRLHF and verl; TRL's PPO puts the score one slot after the end-of-turn token.
    Raises `ValueError` for an answer without a token, which has no place for its score.
    """
    lengths_B = mask_BA.sum(dim=1)
    if bool((lengths_B == 0).any()):
        raise ValueError("an answer has no token, so its score has no place; engines return at least one token")
    rewards_BA = -kl_coef * kl_BA * mask_BA
    rows_B = torch.arange(len(scores_B), device=scores_B.device)
    rewards_BA[rows_B, lengths_B - 1] += scores_B.to(rewards_BA.dtype)
    return rewards_BA
