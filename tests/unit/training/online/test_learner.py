"""The learner on its DeepSpeed engines: on-policy at the first step, and one update however many ranks share it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.contracts.records import Rollout
from training.online.config import PpoConfig
from training.online.critic import Critic
from training.online.learner import Learner
from training.online.prompts import share_of_rank
from training.online.rollout import RolloutBatch

NUM_ANSWERS = 16


def learner(**changes: object) -> Learner:
    """Policy, critic and reference of random weights; the reference is not the policy, so there is a KL."""
    config = PpoConfig(
        policy="sft",
        reward_model="rm",
        conversations="conversations",
        prompts_per_update=NUM_ANSWERS,
        lr=1e-3,
        critic_lr=1e-3,
        temperature=0.8,
        **changes,  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, attention_dropout=0.5,
    )  # fmt: skip
    policy, critic, reference = (LlamaForCausalLM(shape) for _ in range(3))
    return Learner(policy, Critic.from_policy(critic), reference, config=config)


def answers(rows: list[int]) -> tuple[RolloutBatch, torch.Tensor]:
    """Rows of one fixed set of answers of all lengths, and scores that depend on their tokens."""
    rng = np.random.default_rng(0)
    rollouts = []
    for _ in range(NUM_ANSWERS):
        prompt, answer = (rng.integers(0, 31, size=rng.integers(1, 9)) for _ in range(2))
        rollouts.append(Rollout(prompt, answer, -np.ones(len(answer)), np.zeros(len(answer)), "stop"))
    chosen = [rollouts[row] for row in rows]
    scores = [float(r.answer_ids_A.mean()) / 10 - len(r.answer_ids_A) / 5 for r in chosen]
    return RolloutBatch.from_rollouts(chosen), torch.tensor(scores)


def one_update(rank: int, world_size: int, *, zero_stage: int, micro_batch_size: int) -> dict[str, Any]:
    """Train on this rank's share: the figures, and by name how far each weight moved (on rank 0)."""
    subject = learner(
        zero_stage=zero_stage, epochs=2, num_minibatches=2, micro_batch_size=micro_batch_size, whiten_rewards=True
    )
    before = subject.policy_state()
    rows = share_of_rank(NUM_ANSWERS, rank=rank, world_size=world_size, num_minibatches=2)
    experience, figures = subject.experience(*answers(rows))
    figures |= subject.update(experience)
    after = subject.policy_state()
    return {"figures": figures, "moved": {name: after[name] - before[name] for name in after}}


def two_ranks(rank: int, directory: Path, zero_stages: list[int]) -> None:
    """One of two processes; rank 0 leaves what it found in a file per ZeRO stage."""
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it
    store = dist.FileStore(str(directory / "store-of-two"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for zero_stage in zero_stages:
        found = one_update(rank, 2, zero_stage=zero_stage, micro_batch_size=3)
        if rank == 0:
            torch.save(found, directory / f"stage-{zero_stage}.pt")
    dist.destroy_process_group()


def test_at_the_first_step_every_ratio_is_one_dropout_or_not(one_rank):
    subject = learner(micro_batch_size=3)
    experience, _ = subject.experience(*answers(list(range(NUM_ANSWERS))))
    figures = subject.update(experience)
    assert figures["approx_kl"] == pytest.approx(0, abs=1e-10)
    assert figures["clip_fraction"] == 0
    # With every ratio 1 the loss is minus the mean advantage, and whitened advantages have mean 0.
    assert figures["loss"] == pytest.approx(0, abs=1e-6)


def test_later_steps_are_off_policy_and_improve_the_surrogate(one_rank):
    subject = learner(epochs=4)
    experience, _ = subject.experience(*answers(list(range(NUM_ANSWERS))))
    figures = subject.update(experience)
    assert figures["approx_kl"] > 1e-6
    assert figures["loss"] < 0


def test_the_critic_learns_the_returns(one_rank):
    subject = learner(epochs=1, value_clip_range=None)
    experience, _ = subject.experience(*answers(list(range(NUM_ANSWERS))))
    losses = [subject.update(experience)["value_loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_penalty_in_the_loss_pulls_the_policy_to_the_reference(one_rank):
    subject = learner(kl_in="loss", kl_estimator="k3", kl_coef=50.0)
    batch, scores = answers(list(range(NUM_ANSWERS)))
    divergences = []
    for _ in range(10):
        experience, figures = subject.experience(batch, scores)
        divergences.append(figures["kl"])
        subject.update(experience)
    assert divergences[-1] < 0.7 * divergences[0]


def test_two_ranks_make_the_update_that_one_makes_at_every_zero_stage(tmp_path, one_rank):
    """Sharding over ranks, cutting into micro-batches and the ZeRO stage change float rounding, nothing else."""
    stages = [0, 1, 2, 3]
    mp.spawn(two_ranks, args=(tmp_path, stages), nprocs=2)
    one = one_update(0, 1, zero_stage=0, micro_batch_size=16)
    length = sum(float(moved.square().sum()) for moved in one["moved"].values()) ** 0.5
    for stage in stages:
        two = torch.load(tmp_path / f"stage-{stage}.pt")
        assert two["figures"] == pytest.approx(one["figures"], rel=1e-4, abs=1e-6)
        distance = sum(float((two["moved"][n] - one["moved"][n]).square().sum()) for n in one["moved"]) ** 0.5
        assert distance < 1e-3 * length
