import math

import pytest
import torch

from training.post_training.bradley_terry import first_difference, prefix_pair_losses


def test_first_difference() -> None:
    chosen = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7]])
    rejected = torch.tensor([[1, 9, 3, 0], [4, 5, 6, 7]])
    assert first_difference(chosen, rejected).tolist() == [1, 4]


def test_loss_by_hand_over_the_prefixes_from_the_first_difference() -> None:
    # Positions 1 and 2 count: margins 2 and -1. Position 0 is common, position 3 is padding.
    chosen = torch.tensor([[9.0, 2.0, 0.0, 7.0]])
    rejected = torch.tensor([[-9.0, 0.0, 1.0, -7.0]])
    losses = prefix_pair_losses(chosen, rejected, torch.tensor([1]), torch.tensor([3]), torch.tensor([3]))
    assert losses.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2, rel=1e-6)


def test_a_shorter_answer_is_judged_as_a_whole_against_the_longer_ones_prefixes() -> None:
    chosen = torch.tensor([[1.0, 3.0, 50.0]])
    rejected = torch.tensor([[1.0, 0.0, 2.0]])
    losses = prefix_pair_losses(chosen, rejected, torch.tensor([1]), torch.tensor([2]), torch.tensor([3]))
    assert losses.item() == pytest.approx((math.log1p(math.exp(-3)) + math.log1p(math.exp(-1))) / 2, rel=1e-6)


def test_one_position_is_the_bradley_terry_loss_of_last_tokens() -> None:
    chosen, rejected = torch.randn(6, 4), torch.randn(6, 4)
    length = torch.full((6,), 4)
    losses = prefix_pair_losses(chosen, rejected, torch.full((6,), 3), length, length)
    torch.testing.assert_close(losses, -torch.nn.functional.logsigmoid(chosen[:, 3] - rejected[:, 3]))


def test_padding_does_not_change_the_loss() -> None:
    chosen, rejected = torch.randn(2, 5), torch.randn(2, 5)
    arguments = (torch.tensor([1, 2]), torch.tensor([5, 4]), torch.tensor([4, 5]))
    padded = (torch.cat([scores, torch.full((2, 3), 99.0)], dim=1) for scores in (chosen, rejected))
    torch.testing.assert_close(
        prefix_pair_losses(*padded, *arguments, center_coefficient=0.1),
        prefix_pair_losses(chosen, rejected, *arguments, center_coefficient=0.1),
    )


def test_pairs_that_differ_nowhere_cost_nothing() -> None:
    scores = torch.randn(1, 3)
    assert prefix_pair_losses(scores, scores, torch.tensor([3]), torch.tensor([3]), torch.tensor([3])).item() == 0
