"""Which prompts an update takes and a rank answers, and where answers stop."""

from collections import Counter

import pytest
from pydantic import ValidationError

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.errors import InputError
from tests.online_toys import toy_conversations, toy_tokenizer
from training.online.config import PpoConfig
from training.online.prompts import prompts_of_update, read_prompts, share_of_rank


def config(**changes: object) -> PpoConfig:
    return PpoConfig(policy="sft", reward_model="rm", conversations="conversations", **changes)  # type: ignore[arg-type]


def taken(update: int, num_prompts: int = 10, size: int = 4) -> list[int]:
    return prompts_of_update(num_prompts, update=update, prompts_per_update=size, seed=7)


def test_updates_take_every_prompt_once_before_any_twice():
    numbers = [n for update in range(5) for n in taken(update)]
    assert sorted(numbers[:10]) == list(range(10))
    assert sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:]


def test_an_update_larger_than_the_prompt_set_takes_each_evenly():
    assert set(Counter(taken(1, num_prompts=3, size=9)).values()) == {3}


@pytest.mark.parametrize("num_minibatches", [1, 2, 4])
def test_a_minibatch_holds_the_same_prompts_for_any_number_of_ranks(num_minibatches):
    def minibatches(world_size: int) -> list[set[int]]:
        shares = [
            share_of_rank(32, rank=r, world_size=world_size, num_minibatches=num_minibatches) for r in range(world_size)
        ]
        size = 32 // world_size // num_minibatches
        return [
            {place for share in shares for place in share[m * size : (m + 1) * size]} for m in range(num_minibatches)
        ]

    assert minibatches(1) == minibatches(2) == minibatches(4)
    assert set.union(*minibatches(4)) == set(range(32))


def test_prompts_are_encoded_up_to_where_the_assistant_speaks_and_no_prompt_is_on_both_sides(tmp_path):
    tokenizer = toy_tokenizer()
    artifact = toy_conversations(tmp_path / "c", heldout_fraction=0.3, copies=2)  # repeated ones count once
    prompts = read_prompts(ChatEncoder(tokenizer), artifact.uri, max_prompt_tokens=64)
    texts = [tokenizer.decode(ids) for ids in prompts.train + prompts.heldout]
    assert sorted(texts) == sorted(f"<|im_start|>user\nq{i}?<|im_end|>\n<|im_start|>assistant\n" for i in range(40))


def test_a_side_without_a_prompt_is_refused(tmp_path):
    artifact = toy_conversations(tmp_path / "c")
    with pytest.raises(InputError, match=r"no training prompt is left of \d+ \(max_prompt_tokens 3"):
        read_prompts(ChatEncoder(toy_tokenizer()), artifact.uri, max_prompt_tokens=3)


def test_what_cannot_be_honoured_is_refused_with_the_fix():
    with pytest.raises(ValidationError, match=r"multiple of num_minibatches x workers\.num_workers = 6"):
        config(prompts_per_update=8, num_minibatches=3, workers={"num_workers": 2})
    with pytest.raises(ValidationError, match="take k2 or k3"):
        config(kl_in="loss", kl_estimator="k1")
    with pytest.raises(ValidationError, match="max_staleness"):
        config(max_staleness=1)


def test_resources_stay_out_of_the_fingerprint_and_all_roles_are_counted():
    assert {"workers", "policy_server", "reward_server", "micro_batch_size"} <= config().fields_not_in_fingerprint()
    roles = config(workers={"num_workers": 2}, policy_server={"num_replicas": 3}, num_minibatches=2).roles()
    assert [(name, count) for name, count, _ in roles] == [("workers", 2), ("policy_server", 3), ("reward_server", 1)]
