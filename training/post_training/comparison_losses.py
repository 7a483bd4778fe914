"""Losses of a reward model on answers that are compared with one another, and on answers that have a score.

**Rankings.** Every pair of a prompt's answers that are not tied is a Bradley-Terry comparison, and a prompt's loss is
the mean over its pairs: 1 / (K choose 2) each, as in InstructGPT (Ouyang et al., 2022, eq. 1). All of a prompt's pairs
are in the same step, since an answer that takes part in K - 1 comparisons is otherwise seen K - 1 times and overfitted.
The Plackett-Luce likelihood of the whole order would be the other choice. It has no place for ties, and is the same for
two answers, where both are TRL's loss.

**Scores.** The mean squared error to scores with mean 0 and standard deviation 1 over the training answers.

Both are means over rows (prompts, answers), each times the row's weight; weights do not enter the divisor, so a step's
loss is the mean over its micro-batches, however it is cut.

Shape letters: N conversations, P comparisons, G groups (prompts), T positions.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from training.post_training.bradley_terry import first_difference, prefix_pair_losses


def comparison_losses(
    rewards_N: torch.Tensor,
    better_P: torch.Tensor,
    worse_P: torch.Tensor,
    margins_P: torch.Tensor,
    *,
    center_coefficient: float = 0.0,
) -> torch.Tensor:
    """[P] -log sigmoid(r_better - r_worse - margin), and `center_coefficient` times (r_better + r_worse)^2."""
    better_rewards_P, worse_rewards_P = rewards_N[better_P], rewards_N[worse_P]
    losses_P = -logsigmoid(better_rewards_P - worse_rewards_P - margins_P)
    return losses_P + center_coefficient * (better_rewards_P + worse_rewards_P) ** 2


def prefix_comparison_losses(
    scores_NT: torch.Tensor,
    input_ids_NT: torch.Tensor,
    lengths_N: torch.Tensor,
    better_P: torch.Tensor,
    worse_P: torch.Tensor,
    margins_P: torch.Tensor,
    *,
    center_coefficient: float = 0.0,
) -> torch.Tensor:
    """[P] the same after every token from the first that differs (`bradley_terry.prefix_pair_losses`)."""
    return prefix_pair_losses(
        scores_NT[better_P],
        scores_NT[worse_P],
        first_difference(input_ids_NT[better_P], input_ids_NT[worse_P]),
        lengths_N[better_P],
        lengths_N[worse_P],
        center_coefficient=center_coefficient,
        margins_P=margins_P,
    )


def mean_over_groups(losses_P: torch.Tensor, group_P: torch.Tensor, weights_G: torch.Tensor) -> torch.Tensor:
    """[] the mean over groups of weight times the group's mean loss. Every group has a comparison."""
    sums_G = torch.zeros_like(weights_G).index_add(0, group_P, losses_P)
    counts_G = torch.zeros_like(weights_G).index_add(0, group_P, torch.ones_like(losses_P))
    return (weights_G * sums_G / counts_G).mean()


def score_loss(rewards_N: torch.Tensor, targets_N: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
    """[] the mean over answers of weight times the squared difference of reward and target."""
    return (weights_N * (rewards_N - targets_N) ** 2).mean()
