"""The trained side of PPO on one rank: policy and critic, each in a DeepSpeed engine, and the frozen reference model.

A `Learner` needs a process group, but neither Ray nor servers. It is given answers with their scores, and makes an
update of both models from them.

Shape letters: B this rank's answers, A answer tokens (padded).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.engine.deepspeed_config import deepspeed_config
from training.engine.deepspeed_engine import build_engine, full_state_dict, load_engine, save_engine, set_lr
from training.online import kl
from training.online.advantages import gae, whiten
from training.online.config import PpoConfig
from training.online.critic import answer_values
from training.online.logprobs import answer_entropies, answer_logits, answer_logprobs
from training.online.losses import policy_loss, token_mean, value_loss
from training.online.metrics import MetricSums
from training.online.rewards import shape_scores, token_rewards
from training.online.rollout import Experience, RolloutBatch, bucket_by_length
from training.schedules import warmup_fraction


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """All ranks' tensors added up, in place."""
    dist.all_reduce(tensor)
    return tensor


class Learner:
    """What learns. All methods are collective: every rank calls them, with equally many answers."""

    def __init__(
        self, policy: torch.nn.Module, critic: torch.nn.Module, reference: torch.nn.Module, *, config: PpoConfig
    ) -> None:
        """`policy` and `reference` are causal models with the same weights; `critic` is a `critic.Critic`."""
        self.config = config
        self.policy = _engine(policy, config.lr, config)
        self.critic = _engine(critic, config.critic_lr, config)
        self.device = self.policy.device
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.reference = reference.to(self.device, dtype).eval().requires_grad_(False)

    def experience(self, rollouts: RolloutBatch, scores_B: Tensor) -> tuple[Experience, dict[str, float]]:
        """(experience, figures): what an update's epochs need of the answers and their scores; means over all ranks."""
        config, sums = self.config, MetricSums()
        rollouts, scores_B = rollouts.to(self.device), scores_B.to(self.device)
        mask_BA = rollouts.answer_mask
        logprobs_BA, reference_BA, entropies_BA = self.logprobs(rollouts)
        values_BA = self._values(rollouts)

        in_reward = config.kl_coef if config.kl_in == "reward" else 0.0
        shaped_B = shape_scores(
            scores_B,
            rollouts.finished_B,
            reward_clip=config.reward_clip,
            missing_eos_penalty=config.missing_eos_penalty,
        )
        penalty_BA = kl.ESTIMATORS[config.kl_estimator](logprobs_BA, reference_BA)
        rewards_BA = token_rewards(shaped_B, penalty_BA, mask_BA, kl_coef=in_reward)
        if config.whiten_rewards:
            rewards_BA = whiten(rewards_BA, mask_BA, shift_mean=False, sum_over_ranks=sum_over_ranks)
        advantages_BA, returns_BA = gae(
            rewards_BA, values_BA, mask_BA, gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        if config.whiten_advantages:
            advantages_BA = whiten(advantages_BA, mask_BA, sum_over_ranks=sum_over_ranks)

        kl_BA = kl.k3(logprobs_BA, reference_BA)
        sums.add("reward", scores_B)
        sums.add("kl", kl_BA.sum(dim=1))
        sums.add("kl_per_token", kl_BA, mask_BA)
        sums.add("entropy", entropies_BA, mask_BA)
        sums.add("logprob_gap", (logprobs_BA - rollouts.sampled_logprobs_BA).abs(), mask_BA)
        sums.add("answer_length", rollouts.answer_lengths_B)
        sums.add("eos_rate", rollouts.finished_B)
        sums.add("value", values_BA, mask_BA)
        sums.add("return", returns_BA, mask_BA)
        experience = Experience(rollouts, logprobs_BA, reference_BA, values_BA, advantages_BA, returns_BA)
        return experience, sums.means(sum_over_ranks)

    def update(self, experience: Experience) -> dict[str, float]:
        """Train on the answers: `epochs` passes, and in each one optimizer step of both engines per minibatch.

        Returns figures over all ranks. Minibatch m is the m-th of `num_minibatches` equal slices of each rank's rows
        (see `prompts.share_of_rank`).
        """
        sums = MetricSums()
        rows = torch.arange(len(experience), device=self.device)
        for _ in range(self.config.epochs):
            for minibatch in rows.split(len(experience) // self.config.num_minibatches):
                self._step(experience.rows(minibatch), sums)
        return sums.means(sum_over_ranks)

    def logprobs(self, rollouts: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The policy's log-probabilities, the reference's, and the policy's entropies: `[B, A]`, without gradients."""
        shape = rollouts.sampled_logprobs_BA.shape
        logprobs_BA, reference_BA, entropies_BA = (torch.zeros(shape, device=self.device) for _ in range(3))
        with torch.no_grad():
            for rows in bucket_by_length(_lengths(rollouts), self.config.micro_batch_size):
                part = rollouts.rows(rows)
                width = part.sampled_logprobs_BA.shape[1]
                logits = answer_logits(self.policy, part, temperature=self.config.temperature)
                logprobs_BA[rows, :width] = answer_logprobs(logits, part)
                entropies_BA[rows, :width] = answer_entropies(logits, part)
                logits = answer_logits(self.reference, part, temperature=self.config.temperature)
                reference_BA[rows, :width] = answer_logprobs(logits, part)
        return logprobs_BA, reference_BA, entropies_BA

    def policy_state(self) -> dict[str, Tensor]:
        """The policy's whole weights on CPU, on rank 0; empty on the others."""
        return full_state_dict(self.policy)

    def save(self, directory: Path) -> None:
        """Write both engines' parts of this rank below `directory`."""
        save_engine(self.policy, directory / "policy")
        save_engine(self.critic, directory / "critic")

    def load(self, directory: Path) -> None:
        """The inverse of `save`; `directory` also needs what rank 0 saved."""
        load_engine(self.policy, directory / "policy")
        load_engine(self.critic, directory / "critic")

    def _values(self, rollouts: RolloutBatch) -> Tensor:
        values_BA = torch.zeros(rollouts.sampled_logprobs_BA.shape, device=self.device)
        with torch.no_grad():
            for rows in bucket_by_length(_lengths(rollouts), self.config.micro_batch_size):
                part = rollouts.rows(rows)
                values_BA[rows, : part.sampled_logprobs_BA.shape[1]] = answer_values(self.critic, part)
        return values_BA

    def _step(self, minibatch: Experience, sums: MetricSums) -> None:
        """One optimiser step of each engine on this rank's rows of one minibatch."""
        num_tokens = sum_over_ranks(minibatch.rollouts.answer_lengths_B.sum().double()).float()
        # DeepSpeed averages gradients over ranks; the losses are shares of one global sum, so they are to be added.
        scale = dist.get_world_size()
        for rows in bucket_by_length(_lengths(minibatch.rollouts), self.config.micro_batch_size):
            part = minibatch.rows(rows)
            self.policy.backward(self._policy_loss(part, num_tokens, sums) * scale)
            self.critic.backward(self._value_loss(part, num_tokens, sums) * scale)
        for engine, lr in ((self.policy, self.config.lr), (self.critic, self.config.critic_lr)):
            set_lr(engine, lr * warmup_fraction(engine.global_steps, self.config.warmup_steps))
            engine.step()

    def _policy_loss(self, part: Experience, num_tokens: Tensor, sums: MetricSums) -> Tensor:
        config, mask_BA = self.config, part.rollouts.answer_mask
        logits_BKV = answer_logits(self.policy, part.rollouts, temperature=config.temperature)
        logprobs_BA = answer_logprobs(logits_BKV, part.rollouts)
        loss_BA, clipped_BA = policy_loss(
            logprobs_BA,
            part.old_logprobs_BA,
            part.advantages_BA,
            clip_range=config.clip_range,
            dual_clip=config.dual_clip,
        )
        if config.kl_in == "loss":
            penalty_BA = kl.ESTIMATORS[config.kl_estimator](logprobs_BA, part.reference_logprobs_BA)
            loss_BA = loss_BA + config.kl_coef * penalty_BA
        if config.entropy_coef > 0:
            loss_BA = loss_BA - config.entropy_coef * answer_entropies(logits_BKV, part.rollouts)
        sums.add("loss", loss_BA, mask_BA)
        sums.add("clip_fraction", clipped_BA, mask_BA)
        sums.add("approx_kl", kl.k3(part.old_logprobs_BA, logprobs_BA), mask_BA)
        return token_mean(loss_BA, mask_BA, num_tokens)

    def _value_loss(self, part: Experience, num_tokens: Tensor, sums: MetricSums) -> Tensor:
        mask_BA = part.rollouts.answer_mask
        loss_BA, clipped_BA = value_loss(
            answer_values(self.critic, part.rollouts),
            part.old_values_BA,
            part.returns_BA,
            clip_range=self.config.value_clip_range,
        )
        sums.add("value_loss", loss_BA, mask_BA)
        sums.add("value_clip_fraction", clipped_BA, mask_BA)
        return token_mean(loss_BA, mask_BA, num_tokens)


def _engine(model: torch.nn.Module, lr: float, config: PpoConfig) -> Any:
    """A DeepSpeed engine that steps when told to: the number of backward passes per step is the caller's."""
    engine = build_engine(
        model,
        config=deepspeed_config(
            zero_stage=config.zero_stage,
            precision=config.precision,
            micro_batch_size=config.micro_batch_size,
            grad_accumulation_steps=1,
            world_size=dist.get_world_size(),
            gradient_clipping=config.max_grad_norm,
            lr=lr,
            # Unmanaged accumulation excludes overlapped communication at stage 3, DeepSpeed's default there.
            extra={"managed_gradient_accumulation": False, "zero_optimization": {"overlap_comm": False}},
        ),
    )
    engine.eval()  # no dropout: old and new log-probabilities must come from the same function
    return engine


def _lengths(rollouts: RolloutBatch) -> Tensor:
    return rollouts.prompt_lengths_B + rollouts.answer_lengths_B
