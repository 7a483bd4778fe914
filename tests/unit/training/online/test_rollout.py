"""The rollout batch: padding, slicing, and that neither changes a log-probability.

Shape letters: B rows, T tokens, A answer tokens, P prompt tokens.
"""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from cluster.contracts.records import Rollout
from training.online.critic import Critic, answer_values
from training.online.logprobs import answer_entropies, answer_logits, answer_logprobs
from training.online.rollout import Experience, RolloutBatch, bucket_by_length

SHAPE = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}


def rollout(prompt: list[int], answer: list[int], finish_reason: str = "stop", version: int = 3) -> Rollout:
    return Rollout(
        prompt_ids_P=np.array(prompt, np.int32),
        answer_ids_A=np.array(answer, np.int32),
        logprobs_A=-np.arange(1, len(answer) + 1, dtype=np.float32),
        versions_A=np.full(len(answer), version, np.int32),
        finish_reason=finish_reason,  # type: ignore[arg-type]
    )


def ragged_batch() -> RolloutBatch:
    return RolloutBatch.from_rollouts(
        [rollout([1, 2, 3], [4, 5]), rollout([6], [7, 8, 9, 10], "length"), rollout([1, 2, 3, 4, 5], [11])]
    )


def test_prompt_and_answer_lie_side_by_side_and_padding_is_on_the_right():
    batch = ragged_batch()
    assert batch.input_ids_BT.tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 10, 0], [1, 2, 3, 4, 5, 11]]
    assert batch.answer_mask.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
    assert batch.sampled_logprobs_BA.tolist() == [[-1, -2, 0, 0], [-1, -2, -3, -4], [-1, 0, 0, 0]]
    assert batch.versions_BA.tolist() == [[3, 3, -1, -1], [3, 3, 3, 3], [3, -1, -1, -1]]
    assert batch.finished_B.tolist() == [True, False, True]


def test_token_ids_and_answers_come_back_as_they_were():
    batch = ragged_batch()
    assert batch.token_ids() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [1, 2, 3, 4, 5, 11]]
    assert batch.answers() == [(4, 5), (7, 8, 9, 10), (11,)]


def test_taking_rows_cuts_the_padding_that_only_others_needed():
    rows = ragged_batch().rows(torch.tensor([0]))
    assert rows.input_ids_BT.tolist() == [[1, 2, 3, 4, 5]]
    assert rows.sampled_logprobs_BA.shape == (1, 2)


def test_experience_rows_are_cut_to_the_width_of_their_rollouts():
    batch = ragged_batch()
    numbers_BA = torch.arange(12.0).view(3, 4)
    experience = Experience(batch, *[numbers_BA + i for i in range(5)]).rows(torch.tensor([2, 0]))
    assert experience.old_logprobs_BA.tolist() == [[8, 9], [0, 1]]
    assert experience.returns_BA.tolist() == [[12, 13], [4, 5]]
    assert len(experience) == 2


@pytest.mark.parametrize("bad", [[], [([], [1])], [([1], [])]])
def test_empty_prompts_answers_and_batches_are_refused(bad):
    with pytest.raises(ValueError, match="at least one"):
        RolloutBatch.from_rollouts([rollout(p, a) for p, a in bad])


def test_buckets_hold_every_row_once_like_lengths_together_and_depend_in_number_on_the_rows_alone():
    lengths = torch.tensor([9, 1, 8, 2, 7, 3, 9])
    buckets = bucket_by_length(lengths, 2)
    assert sorted(torch.cat(buckets).tolist()) == list(range(7))
    assert [lengths[rows].tolist() for rows in buckets] == [[1, 2], [3, 7], [8, 9], [9]]
    assert len(bucket_by_length(torch.ones(7), 2)) == len(buckets)


def test_logprobs_and_entropies_in_a_padded_batch_equal_those_of_each_row_alone():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    batch, temperature = ragged_batch(), 0.7
    with torch.no_grad():
        logits = answer_logits(model, batch, temperature=temperature)
        logprobs_BA, entropies_BA = answer_logprobs(logits, batch), answer_entropies(logits, batch)
        for b, (ids, answer) in enumerate(zip(batch.token_ids(), batch.answers(), strict=True)):
            row = torch.log_softmax(model(torch.tensor([ids])).logits[0].double() / temperature, dim=-1)
            first = len(ids) - len(answer)
            expected = [float(row[first + a - 1, token]) for a, token in enumerate(answer)]
            entropies = [-float((row[first + a - 1].exp() * row[first + a - 1]).sum()) for a in range(len(answer))]
            assert logprobs_BA[b, : len(answer)].tolist() == pytest.approx(expected, abs=1e-5)
            assert entropies_BA[b, : len(answer)].tolist() == pytest.approx(entropies, abs=1e-5)
    assert not logprobs_BA[~batch.answer_mask].any()


def test_the_critic_begins_as_the_reward_model_and_values_the_state_before_each_token():
    torch.manual_seed(0)
    reward_model = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1)).eval()
    batch = ragged_batch()
    ids_BT = batch.input_ids_BT
    with torch.no_grad():
        expected_BT = reward_model.score(reward_model.model(ids_BT).last_hidden_state).squeeze(-1)
        values_BA = answer_values(Critic.from_reward_model(reward_model), batch)
    assert values_BA[0, :2].tolist() == pytest.approx(expected_BT[0, 2:4].tolist(), abs=1e-6)
    assert values_BA[1].tolist() == pytest.approx(expected_BT[1, 0:4].tolist(), abs=1e-6)
    assert values_BA[2, :1].tolist() == pytest.approx(expected_BT[2, 4:5].tolist(), abs=1e-6)


def test_a_critic_from_the_policy_begins_by_valuing_everything_at_zero():
    policy = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    assert not answer_values(Critic.from_policy(policy), ragged_batch()).any()
