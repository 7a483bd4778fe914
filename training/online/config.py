"""The config of PPO. Where systems differ, the field says what others do.

TRL is its `trl.experimental.ppo` (1.12, the last with PPO); DeepSpeed-Chat, OpenRLHF and verl by their defaults for
PPO. Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cluster.contracts.config import InputFiles, InputOf, Resources, StageConfig, WorkerGroup, not_in_fingerprint

Fraction = Annotated[float, Field(ge=0, le=1)]


class ReplicaGroup(Resources):
    """The replicas of one server; the resources are those of one replica."""

    num_replicas: Annotated[int, Field(ge=1)] = 1

    max_batch_size: Annotated[int, Field(ge=1)] = 64
    """sequences that one forward pass takes together"""

    max_batch_tokens: Annotated[int, Field(ge=64)] = 32_768
    """tokens of one batch: the size of the policy's KV cache"""


class PpoConfig(StageConfig):
    """PPO with a critic: answers from the policy servers, scores from the reward servers, training in the workers."""

    kind: Literal["ppo"] = "ppo"

    # Inputs
    policy: Annotated[str, InputOf(("sft", "dpo"))]
    """the model to start from, and the reference of the KL"""

    reward_model: Annotated[str, InputOf(("reward_model",))]
    """scores whole conversations"""

    conversations: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """JSON Lines as for SFT; their first prompts are used"""

    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """of first prompts, kept for the evaluation"""

    split_seed: Annotated[int, Field(ge=0)] = 0
    """chooses which; the same in all stages that split"""

    max_prompt_tokens: Annotated[int, Field(ge=1)] = 256
    """longer prompts are left out (and counted)"""

    # How much
    updates: Annotated[int, Field(ge=1)] = 100
    """rounds of rollout, training and weight publication"""

    prompts_per_update: Annotated[int, Field(ge=1)] = 64
    """over all workers"""

    samples_per_prompt: Annotated[int, Field(ge=1)] = 1
    """answers to each"""

    epochs: Annotated[int, Field(ge=1)] = 1
    """passes over an update's answers (TRL 4; DeepSpeed-Chat, OpenRLHF, verl 1)"""

    num_minibatches: Annotated[int, Field(ge=1)] = 1
    """optimiser steps per pass; in TRL it does not add steps"""

    micro_batch_size: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=16)
    """answers per worker and forward pass; changes memory and speed, not the gradient"""

    # Sampling
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """of an answer"""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """of sampling, and of every log-probability (TRL 0.7, others 1)"""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """below 1 answers come from a cut distribution the loss ignores"""

    max_staleness: Literal[0] = 0
    """versions an answer may be behind the trainer; only 0 (on-policy) is supported"""

    # Rewards
    reward_clip: Annotated[float | None, Field(gt=0)] = None
    """scores are held within +-this (OpenRLHF 10, DS-Chat 5)"""

    missing_eos_penalty: Annotated[float | None, Field(gt=0)] = None
    """off the score of an answer cut at the limit"""

    whiten_rewards: bool = False
    """scale token rewards to variance 1, mean kept, over the global batch (off in TRL)"""

    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """of the penalty (TRL 0.05, DS-Chat 0.1, OpenRLHF 0.01, verl 0)"""

    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """of that penalty, see `kl.py` (k1 in all four)"""

    kl_in: Literal["reward", "loss"] = "reward"
    """where it goes (all four: reward; GRPO: the loss, with k3)"""

    # Advantages
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """discount per token (1 in all four)"""

    gae_lambda: Fraction = 0.95
    """TRL, DeepSpeed-Chat 0.95; OpenRLHF, verl 1.0"""

    whiten_advantages: bool = True
    """to mean 0, variance 1 over the global batch (per rank in TRL, off in DS-Chat)"""

    # Losses
    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """of the probability ratio (0.2 in all four)"""

    dual_clip: Annotated[float | None, Field(gt=1)] = None
    """bound on the ratio at negative advantage (verl 3.0)"""

    value_clip_range: Annotated[float | None, Field(gt=0)] = 0.2
    """TRL, DS-Chat 0.2; OpenRLHF, verl 0.5; None: off"""

    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """of an entropy bonus; 0: none"""

    # Optimisers (Adam, constant learning rate after the warm-up; no weight decay)
    lr: Annotated[float, Field(gt=0)] = 1e-6
    """of the policy (TRL 3e-6, DS-Chat 9.65e-6, OpenRLHF, verl 1e-6)"""

    critic_lr: Annotated[float, Field(gt=0)] = 1e-5
    """of the critic (OpenRLHF 9e-6, verl 1e-5, DS-Chat 5e-6)"""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """optimiser steps over which both learning rates rise from 0"""

    critic_init: Literal["reward_model", "policy"] = "reward_model"
    """whose trunk; the policy's gets a head of zeros"""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """gradients are scaled down to this norm (1 in all four)"""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO of both; the frozen reference is whole on each"""

    precision: Literal["fp32", "bf16"] = "fp32"
    """of forward and backward; log-probabilities are float32 always"""

    # Evaluation on held-out prompts, before and after
    # Training ends early, with the weights as they are, once an update's own answers are measured above the ceiling;
    # the end figure on held-out prompts is compared to it, too (`kl_under_ceiling`).
    kl_ceiling: Annotated[float | None, Field(gt=0)] = None
    """nats per answer from the reference; None: no ceiling"""

    heldout_prompts: Annotated[int | None, Field(ge=2)] = None
    """how many of them; None: all"""

    heldout_samples_per_prompt: Annotated[int, Field(ge=1)] = 2
    """answers to each, at `temperature`"""

    # Execution
    checkpoint_every: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=10)
    """updates between checkpoints; they are removed when the stage ends"""

    publish_timeout_s: Annotated[float, Field(gt=0)] = not_in_fingerprint(default=60.0)
    """seconds that the policy replicas may take to switch to new weights"""

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """the Ray Train workers"""

    policy_server: ReplicaGroup = not_in_fingerprint(default_factory=ReplicaGroup)
    """the policy replicas"""

    reward_server: ReplicaGroup = not_in_fingerprint(default_factory=ReplicaGroup)
    """the reward replicas"""

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [
            ("workers", self.workers.num_workers, self.workers),
            ("policy_server", self.policy_server.num_replicas, self.policy_server),
            ("reward_server", self.reward_server.num_replicas, self.reward_server),
        ]

    def conflicts(self) -> Iterator[tuple[str, str]]:
        pieces = self.num_minibatches * self.workers.num_workers
        if self.prompts_per_update % pieces:
            yield "prompts_per_update", f"must be a multiple of num_minibatches x workers.num_workers = {pieces}"
        if self.kl_in == "loss" and self.kl_estimator == "k1" and self.kl_coef > 0:
            yield "kl_estimator", "k1 with kl_in: loss does nothing: its expected gradient is 0; take k2 or k3"
