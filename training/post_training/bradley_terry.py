"""Pairwise losses of a reward model (Bradley & Terry, 1952): P(chosen beats rejected) = sigmoid(s_c - s_r).

TRL's own loss compares the scores after the last token. `prefix_pair_losses` compares them after every token from the
first one that differs: each prefix of the chosen sequence should score above the rejected one's prefix of the same
length (as DeepSpeed-Chat trains its reward models). One pair then teaches as many comparisons as it has tokens. That
lets a small model learn from few pairs instead of remembering them.

Shape letters: P pairs, T positions.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def first_difference(chosen_ids_PT: torch.Tensor, rejected_ids_PT: torch.Tensor) -> torch.Tensor:
    """[P] the first position at which the two (equally padded) sequences differ; T where they never do."""
    differs_PT = chosen_ids_PT != rejected_ids_PT
    first_P = differs_PT.int().argmax(dim=1)
    return torch.where(differs_PT.any(dim=1), first_P, differs_PT.shape[1])


def prefix_pair_losses(
    chosen_scores_PT: torch.Tensor,
    rejected_scores_PT: torch.Tensor,
    first_P: torch.Tensor,
    chosen_lengths_P: torch.Tensor,
    rejected_lengths_P: torch.Tensor,
    *,
    center_coefficient: float = 0.0,
    margins_P: torch.Tensor | None = None,
) -> torch.Tensor:
    """[P] mean of -log sigmoid(s_c - s_r) over positions `first` to the longer one's end.

    A sequence that has ended keeps its last score, so its whole is compared with the other's longer prefixes.
    `margins_P` are taken off the differences. `center_coefficient` adds that much times (s_c + s_r)^2, which pulls
    scores towards zero (Eisenstein et al., 2023). A pair that differs nowhere has loss 0.
    """
    positions_T = torch.arange(chosen_scores_PT.shape[1], device=chosen_scores_PT.device)
    chosen_PT = _held_at_end(chosen_scores_PT, chosen_lengths_P, positions_T)
    rejected_PT = _held_at_end(rejected_scores_PT, rejected_lengths_P, positions_T)
    last_P = torch.maximum(chosen_lengths_P, rejected_lengths_P)
    counted_PT = (positions_T >= first_P[:, None]) & (positions_T < last_P[:, None])
    differences_PT = chosen_PT - rejected_PT
    if margins_P is not None:
        differences_PT = differences_PT - margins_P[:, None]
    losses_PT = -logsigmoid(differences_PT) + center_coefficient * (chosen_PT + rejected_PT) ** 2
    return (losses_PT * counted_PT).sum(dim=1) / counted_PT.sum(dim=1).clamp(min=1)


def _held_at_end(scores_PT: torch.Tensor, lengths_P: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
    index_PT = torch.minimum(positions_T[None, :].expand_as(scores_PT), lengths_P[:, None] - 1)
    return scores_PT.gather(1, index_PT)
