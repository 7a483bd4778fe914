"""PPO's token losses, and the one way in which they are added up.

Each loss is a tensor `[B, A]` of token losses. `token_mean` reduces it to the sum over this shard's tokens, divided by
the *global* number of tokens of the minibatch. The shards (micro-batches, ranks) then add up to the loss of the whole
minibatch, however it was cut. A mean of the shards' means would weigh the tokens of short shards more.

Source: Schulman et al. 2017 (arXiv:1707.06347). Shape letters: B answers, A answer tokens (padded).
"""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(
    logprobs_BA: Tensor, old_logprobs_BA: Tensor, advantages_BA: Tensor, *, clip_range: float, dual_clip: float | None
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate per token, to be minimised, and where the clip decided it; both `[B, A]`.

    -min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A), eq. 7. With `dual_clip` = c > 1, tokens of a
    negative advantage lose at most -c * A (Ye et al. 2020, arXiv:1912.09729, eq. 5), which bounds the step where the
    ratio has run away.
    """
    ratio_BA = torch.exp(logprobs_BA - old_logprobs_BA)
    unclipped_BA = -advantages_BA * ratio_BA
    clipped_BA = -advantages_BA * ratio_BA.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss_BA = torch.maximum(unclipped_BA, clipped_BA)
    was_clipped_BA = clipped_BA > unclipped_BA
    if dual_clip is not None:
        bound_BA = -advantages_BA * dual_clip
        bounded_BA = (advantages_BA < 0) & (bound_BA < loss_BA)
        loss_BA = torch.where(bounded_BA, bound_BA, loss_BA)
        was_clipped_BA = was_clipped_BA | bounded_BA
    return loss_BA, was_clipped_BA


def value_loss(
    values_BA: Tensor, old_values_BA: Tensor, returns_BA: Tensor, *, clip_range: float | None
) -> tuple[Tensor, Tensor]:
    """Half the squared error of the critic per token, and where the clip decided it; both `[B, A]`.

    With `clip_range`, the larger of the errors of V and of V held within +-clip_range of its old value.
    """
    unclipped_BA = (values_BA - returns_BA).square()
    if clip_range is None:
        return 0.5 * unclipped_BA, torch.zeros_like(unclipped_BA, dtype=torch.bool)
    held_BA = old_values_BA + (values_BA - old_values_BA).clamp(-clip_range, clip_range)
    clipped_BA = (held_BA - returns_BA).square()
    return 0.5 * torch.maximum(unclipped_BA, clipped_BA), clipped_BA > unclipped_BA


def token_mean(values_BA: Tensor, mask_BA: Tensor, num_tokens: Tensor | float) -> Tensor:
    """The sum over unmasked tokens divided by `num_tokens`, the count over the whole minibatch on all ranks."""
    return torch.where(mask_BA, values_BA, 0.0).sum() / num_tokens
