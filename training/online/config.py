"""The config of PPO. Where systems differ, the field says what others do.

TRL is its `trl.experimental.ppo` (1.12, the last with PPO); DeepSpeed-Chat, OpenRLHF and verl by their defaults for
PPO. Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import (
    InputOf,
    Resources,
    Sections,
    StageConfig,
    WorkerGroup,
    not_in_fingerprint,
)
from cluster.contracts.model_needs import ModelNeeds
from training.config import CAUSAL_MODEL, SCORING_MODEL, ReplicaGroup

Fraction = Annotated[float, Field(ge=0, le=1)]


class PpoConfig(StageConfig):
    """PPO with a critic: answers from the policy servers, scores from the reward servers, training in the workers."""

    kind: Literal["ppo"] = "ppo"

    sections: ClassVar[Sections] = {
        "Inputs": ("policy", "reward_model", "conversations", "max_prompt_tokens"),
        "Amount": ("updates", "prompts_per_update", "samples_per_prompt", "epochs", "num_minibatches"),
        "Sampling": ("max_new_tokens", "temperature", "top_p", "max_staleness"),
        "Rewards": ("reward_clip", "missing_eos_penalty", "whiten_rewards", "kl_coef", "kl_estimator", "kl_in"),
        "Advantages": ("gamma", "gae_lambda", "whiten_advantages"),
        "Losses": ("clip_range", "dual_clip", "value_clip_range", "entropy_coef"),
        "Optimizers (Adam)": (
            "lr",
            "critic_lr",
            "warmup_steps",
            "critic_init",
            "max_grad_norm",
            "zero_stage",
            "precision",
        ),
        "Evaluation on held-out prompts": ("kl_ceiling", "heldout_prompts", "heldout_samples_per_prompt"),
        "Execution": (
            "micro_batch_size",
            "checkpoint_every",
            "publish_timeout_s",
            "workers",
            "policy_server",
            "reward_server",
        ),
    }

    policy: Annotated[str, CAUSAL_MODEL]
    """The model to start from, which is the reference of the KL too: any stage that makes a causal model, or a
    directory with a Hugging Face model.
    """

    reward_model: Annotated[str, SCORING_MODEL]
    """The reward_model stage, or a directory with a reward model, that scores whole conversations."""

    conversations: Annotated[str, InputOf(("conversations",))]
    """The conversations stage, or a directory with its artifact. The first prompts of its conversations are answered;
    those of the held-out side measure the policy before and after.
    """

    max_prompt_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest prompt, in tokens. Longer ones are left out, and counted."""

    updates: Annotated[int, Field(ge=1)] = 100
    """Rounds of sampling answers, training on them and publishing the new weights."""

    prompts_per_update: Annotated[int, Field(ge=1)] = 64
    """Prompts that one update answers, over all workers."""

    samples_per_prompt: Annotated[int, Field(ge=1)] = 1
    """Answers to each prompt of an update."""

    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over an update's answers. TRL has 4; DeepSpeed-Chat, OpenRLHF and verl have 1."""

    num_minibatches: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps of each pass over an update's answers. In TRL this setting adds no steps."""

    micro_batch_size: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=16)
    """Answers of one worker's forward pass. It changes memory and speed, not the gradient."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer, in tokens."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of sampling, and of every log-probability alike. TRL has 0.7, the others 1."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest share of probability to sample from. Below 1, answers come from a cut distribution that the loss does
    not know of.
    """

    max_staleness: Literal[0] = 0
    """Versions of the weights that an answer may be behind the trainer. Only 0, training on policy, is there."""

    reward_clip: Annotated[float | None, Field(gt=0)] = None
    """Scores are held within plus and minus this. OpenRLHF has 10, DeepSpeed-Chat 5. `null` clips nothing."""

    missing_eos_penalty: Annotated[float | None, Field(gt=0)] = None
    """Taken off the score of an answer that was cut at `max_new_tokens`, after the clip. `null` takes nothing off."""

    whiten_rewards: bool = False
    """Whether the tokens' rewards are scaled to variance 1 over the global batch, with their mean kept. TRL does not by
    default.
    """

    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the KL penalty that holds the policy to its start. TRL has 0.05, DeepSpeed-Chat 0.1, OpenRLHF 0.01,
    verl 0.
    """

    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """How the KL of a token is estimated (Schulman 2020): `k1` is unbiased with high variance, `k2` biased with low
    variance, `k3` unbiased and never negative. All four systems have k1.
    """

    kl_in: Literal["reward", "loss"] = "reward"
    """Where the penalty goes: into the reward, as in all four systems, or into the loss, as in GRPO (there with k3)."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token. All four systems have 1."""

    gae_lambda: Fraction = 0.95
    """Lambda of generalised advantage estimation (Schulman et al. 2016); 1 has no bias by the critic and more variance.
    TRL and DeepSpeed-Chat have 0.95, OpenRLHF and verl 1.0.
    """

    whiten_advantages: bool = True
    """Whether advantages are brought to mean 0 and variance 1 over the global batch. TRL does so per rank;
    DeepSpeed-Chat does not.
    """

    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far from 1 the probability ratio is rewarded (PPO's clip). All four systems have 0.2."""

    dual_clip: Annotated[float | None, Field(gt=1)] = None
    """Largest ratio that counts where the advantage is negative (Ye et al. 2020). verl has 3.0. `null` turns it off."""

    value_clip_range: Annotated[float | None, Field(gt=0)] = 0.2
    """How far a value may move from the one before the update. TRL and DeepSpeed-Chat have 0.2, OpenRLHF and verl 0.5.
    `null` turns it off.
    """

    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a bonus on the policy's entropy. 0 turns it off."""

    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Learning rate of the policy, Adam's, constant after the warm-up. TRL has 3e-6, DeepSpeed-Chat 9.65e-6, OpenRLHF
    and verl 1e-6.
    """

    critic_lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate of the critic, likewise. OpenRLHF has 9e-6, verl 1e-5, DeepSpeed-Chat 5e-6."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps over which both learning rates rise from 0."""

    critic_init: Literal["reward_model", "policy"] = "reward_model"
    """Where the critic's weights come from: the reward model, or the policy with a new head of zeros."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a model's gradients; larger ones are scaled down to it. All four systems have 1."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed's ZeRO stage of policy and critic, what is sharded over the workers: 1 the optimizer's state, 2
    gradients too, 3 weights too; 0 nothing. The frozen reference is whole on each worker.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of forward and backward passes. Log-probabilities are in float32 always."""

    kl_ceiling: Annotated[float | None, Field(gt=0)] = None
    """Nats per answer from the reference at most. Training ends early, with the weights as they are, once an update's
    own answers are measured above it; the final figure on held-out prompts is compared with it too. `null` sets no
    ceiling.
    """

    heldout_prompts: Annotated[int | None, Field(ge=2)] = None
    """Held-out prompts that are answered before and after training. `null` takes all."""

    heldout_samples_per_prompt: Annotated[int, Field(ge=1)] = 2
    """Answers to each held-out prompt, sampled at `temperature`."""

    checkpoint_every: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=10)
    """Updates between checkpoints. What was trained since the last one is lost when a worker dies. Checkpoints are
    removed when the stage ends.
    """

    publish_timeout_s: Annotated[float, Field(gt=0)] = not_in_fingerprint(default=60.0)
    """Seconds that the policy's replicas may take to switch to new weights."""

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """The workers that train together."""

    policy_server: ReplicaGroup = not_in_fingerprint(default_factory=ReplicaGroup)
    """The replicas that sample answers from the policy."""

    reward_server: ReplicaGroup = not_in_fingerprint(default_factory=ReplicaGroup)
    """The replicas that score answers with the reward model."""

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [
            ("workers", self.workers.num_workers, self.workers),
            ("policy_server", self.policy_server.num_replicas, self.policy_server),
            ("reward_server", self.reward_server.num_replicas, self.reward_server),
        ]

    def model_needs(self, field: str) -> ModelNeeds:
        return ModelNeeds(
            chat_template=field == "policy",
            padding_token=True,
            max_length=self.max_prompt_tokens + self.max_new_tokens,
            length_setting="max_prompt_tokens + max_new_tokens",
            answers=field == "policy",
        )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        pieces = self.num_minibatches * self.workers.num_workers
        if self.prompts_per_update % pieces:
            yield "prompts_per_update", f"must be a multiple of num_minibatches x workers.num_workers = {pieces}"
        if self.kl_in == "loss" and self.kl_estimator == "k1" and self.kl_coef > 0:
            yield "kl_estimator", "k1 with kl_in: loss does nothing: its expected gradient is 0; take k2 or k3"
