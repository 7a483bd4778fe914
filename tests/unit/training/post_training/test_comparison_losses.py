"""Losses on rankings and scores, against loops written out."""

import math

import pytest
import torch

from cluster.contracts.chat.encoder import ChatEncoder
from tests.chat_fixtures import make_chat_tokenizer
from tests.unit.training.feedback.feedback_rows import label, pair, ranking, scores
from training.feedback.conversions import PairRule
from training.feedback.encoded_groups import encode_groups, encode_scores
from training.post_training.bradley_terry import prefix_pair_losses
from training.post_training.comparison_losses import (
    comparison_losses,
    mean_over_groups,
    prefix_comparison_losses,
    score_loss,
)
from training.post_training.comparison_trainer import GroupCollator, ScoreCollator, group_rows, score_rows

ROWS = [
    ranking("p", ["one", "two two", "three", "four"], [1, 2, 2, 3]),
    pair("q", "good", "bad bad bad", margin=0.5, weight=2.0),
    scores("r", ["a", "b", "c"], [1.0, 4.0, 5.0], score_range=(0.0, 10.0)),
    label("s", "yes", True),
    label("s", "no", False),
]


def sigmoid_loss(difference: float) -> float:
    return math.log1p(math.exp(-difference))


def test_the_loss_on_rankings_is_the_mean_over_prompts_of_the_mean_over_their_pairs() -> None:
    encoder = ChatEncoder(make_chat_tokenizer())
    groups = encode_groups(encoder, ROWS, PairRule(), max_length=100).groups
    batch = GroupCollator(3)(group_rows(groups, margin_scale=2.0))
    torch.manual_seed(0)
    rewards_N = torch.randn(len(batch["input_ids"]), dtype=torch.float64)
    losses_P = comparison_losses(rewards_N, batch["better"], batch["worse"], batch["margins"], center_coefficient=0.1)
    found = mean_over_groups(losses_P, batch["group"], batch["weights"].double())

    r = rewards_N.tolist()  # four answers of p, two of q, three of r, two of s
    better_worse_margin = [
        [(0, 1, 0.0), (0, 2, 0.0), (0, 3, 0.0), (1, 3, 0.0), (2, 3, 0.0)],
        [(4, 5, 0.5)],
        [(8, 7, 0.1), (8, 6, 0.4), (7, 6, 0.3)],
        [(9, 10, 0.0)],
    ]
    expected = 0.0
    for weight, compared in zip((1.0, 2.0, 1.0, 1.0), better_worse_margin, strict=True):
        of_prompt = 0.0
        for better, worse, margin in compared:
            of_prompt += sigmoid_loss(r[better] - r[worse] - 2 * margin) + 0.1 * (r[better] + r[worse]) ** 2
        expected += weight * of_prompt / len(compared)
    assert found.item() == pytest.approx(expected / 4, rel=1e-6)


def test_the_loss_after_every_token_is_that_of_each_pair_alone() -> None:
    encoder = ChatEncoder(make_chat_tokenizer())
    batch = GroupCollator(3)(
        group_rows(encode_groups(encoder, ROWS, PairRule(), max_length=100).groups, margin_scale=1)
    )
    torch.manual_seed(0)
    scores_NT = torch.randn(batch["input_ids"].shape)
    lengths_N = batch["attention_mask"].sum(1)
    found = prefix_comparison_losses(
        scores_NT, batch["input_ids"], lengths_N, batch["better"], batch["worse"], batch["margins"]
    )
    for number, (b, w) in enumerate(zip(batch["better"].tolist(), batch["worse"].tolist(), strict=True)):
        ids, last = batch["input_ids"], int(max(lengths_N[b], lengths_N[w]))
        first = next(t for t in range(last) if ids[b, t] != ids[w, t])
        held = [[scores_NT[n, min(t, int(lengths_N[n]) - 1)].item() for t in range(last)] for n in (b, w)]
        margin = batch["margins"][number].item()
        expected = [sigmoid_loss(held[0][t] - held[1][t] - margin) for t in range(first, last)]
        assert found[number].item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_no_margin_is_the_same_as_margins_of_zero() -> None:
    torch.manual_seed(1)
    first_PT, second_PT = torch.randn(3, 5), torch.randn(3, 5)
    first_P, lengths_P = torch.tensor([0, 1, 2]), torch.tensor([5, 4, 3])
    arguments = (first_PT, second_PT, first_P, lengths_P, lengths_P)
    torch.testing.assert_close(
        prefix_pair_losses(*arguments), prefix_pair_losses(*arguments, margins_P=torch.zeros(3)), rtol=0, atol=0
    )


def test_scores_are_learned_as_their_distance_from_the_mean_in_standard_deviations() -> None:
    encoder = ChatEncoder(make_chat_tokenizer())
    found, num_too_long, _ = encode_scores(encoder, [scores("r", ["a", "b"], [1.0, 5.0], weight=2.0)], max_length=100)
    assert num_too_long == 0
    batch = ScoreCollator(3)(score_rows(found, mean=3.0, std=2.0))
    rewards_N = torch.tensor([0.5, 0.0])
    assert score_loss(rewards_N, batch["targets"], batch["weights"]).item() == pytest.approx((2 * 1.5**2 + 2 * 1.0) / 2)


def test_an_answer_that_is_too_long_leaves_its_group_with_all_that_it_is_compared_with() -> None:
    encoder = ChatEncoder(make_chat_tokenizer())
    row = ranking("p", ["a", "b " * 50, "c"], [1, 2, 3])
    found = encode_groups(encoder, [row, pair("q", "x " * 50, "y")], PairRule(), max_length=60)
    assert [group.comparisons for group in found.groups] == [[(0, 1, 0.0)]]
    assert [len(group.sequences) for group in found.groups] == [2]
    assert found.num_answers_too_long == 2


def test_a_micro_batch_is_cut_as_trl_cuts_pairs_and_the_mean_of_its_losses_stays() -> None:
    groups = encode_groups(ChatEncoder(make_chat_tokenizer()), ROWS, PairRule(), max_length=100).groups
    torch.manual_seed(0)
    weights = torch.randn(1000)

    def loss(some: list) -> torch.Tensor:  # type: ignore[type-arg]
        batch = GroupCollator(3)(group_rows(some, margin_scale=1))
        rewards_N = (weights[batch["input_ids"]] * batch["attention_mask"]).sum(1)
        losses_P = comparison_losses(rewards_N, batch["better"], batch["worse"], batch["margins"])
        return mean_over_groups(losses_P, batch["group"], batch["weights"])

    torch.testing.assert_close(loss(groups), (loss(groups[:2]) + loss(groups[2:])) / 2, rtol=1e-5, atol=1e-5)
