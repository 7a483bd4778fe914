"""Measures the policy before and after training on the same held-out prompts, with the same seed for each answer.

Shape letters: H held-out prompts, S answers to each, B rows of one rank, A answer tokens.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from cluster.contracts.hashing import derived_seed
from cluster.contracts.records import RolloutClient, SamplingParams
from training.online import kl
from training.online.answers import answer_and_score
from training.online.learner import Learner


@dataclass(frozen=True)
class HeldoutFigures:
    """One model's answers to the held-out prompts, in figures. JSON-able, so that a checkpoint can carry them."""

    rewards_H: list[float]  # a prompt's mean score over its answers
    distinct_answers: int  # of H x S
    eos_rate: float  # share of answers that ended by themselves
    answer_length: float  # mean, tokens
    kl: float  # nats per answer to the reference: k3 of each token, summed over the answer, mean over answers
    kl_per_token: float  # nats: the same, over all answers' tokens

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HeldoutFigures:
        return cls(**value)


def evaluate(
    learner: Learner,
    client: RolloutClient,
    prompts_H: Sequence[Sequence[int]],
    *,
    sampling: SamplingParams,
    samples_per_prompt: int,
    version: int,
    seed: int,
) -> HeldoutFigures:
    """Answer all prompts, score the answers and measure their KL; every rank does its share and gets the whole.

    The answers must come from the weights that `learner` holds, which are version `version`.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    per_rank = math.ceil(len(prompts_H) / world_size)
    # Ranks must run equally many passes (ZeRO's collectives), so a short share is filled up with earlier prompts.
    share = [h % len(prompts_H) for h in range(rank * per_rank, (rank + 1) * per_rank)]
    num_own = max(0, min(len(prompts_H) - rank * per_rank, per_rank)) * samples_per_prompt
    answers = answer_and_score(
        client,
        [prompts_H[h] for h in share],
        [[derived_seed(seed, "heldout", h, s) for s in range(samples_per_prompt)] for h in share],
        sampling=sampling,
        version=version,
    )
    logprobs_BA, reference_BA, _ = learner.logprobs(answers.rollouts.to(learner.device))
    columns = zip(
        [h for h in share for _ in range(samples_per_prompt)],
        answers.scores_B.tolist(),
        kl.k3(logprobs_BA, reference_BA).sum(dim=1).tolist(),
        answers.rollouts.finished_B.tolist(),
        answers.rollouts.answers(),
        strict=True,
    )
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, list(columns)[:num_own])
    return figures_of([row for part in gathered for row in part], len(prompts_H))


def compare(before: HeldoutFigures, after: HeldoutFigures, *, kl_ceiling: float | None) -> dict[str, Any]:
    """The stage's end figures.

    `heldout_reward_se` is the paired standard error: the standard deviation over prompts of (after - before), by
    the root of their number.
    """
    gains_H = [b - a for a, b in zip(before.rewards_H, after.rewards_H, strict=True)]
    return {
        "heldout_reward_before": statistics.fmean(before.rewards_H),
        "heldout_reward_after": statistics.fmean(after.rewards_H),
        "heldout_reward_se": statistics.stdev(gains_H) / math.sqrt(len(gains_H)),
        "heldout_prompts": len(gains_H),
        "kl_to_reference": after.kl,
        "kl_to_reference_per_token": after.kl_per_token,
        "kl_ceiling": kl_ceiling,
        "kl_under_ceiling": kl_ceiling is None or after.kl <= kl_ceiling,
        "distinct_answers_before": before.distinct_answers,
        "distinct_answers_after": after.distinct_answers,
        "eos_rate_before": before.eos_rate,
        "eos_rate_after": after.eos_rate,
        "answer_length_before": before.answer_length,
        "answer_length_after": after.answer_length,
    }


def figures_of(rows: Sequence[tuple[int, float, float, bool, tuple[int, ...]]], num_prompts: int) -> HeldoutFigures:
    """From (prompt number, score, KL, finished, answer ids) of every answer."""
    scores: list[list[float]] = [[] for _ in range(num_prompts)]
    for h, score, *_ in rows:
        scores[h].append(score)
    total_kl = math.fsum(row[2] for row in rows)
    num_tokens = sum(len(row[4]) for row in rows)
    return HeldoutFigures(
        rewards_H=[statistics.fmean(of_prompt) for of_prompt in scores],
        distinct_answers=len({row[4] for row in rows}),
        eos_rate=sum(row[3] for row in rows) / len(rows),
        answer_length=num_tokens / len(rows),
        kl=total_kl / len(rows),
        kl_per_token=total_kl / num_tokens,
    )
