"""Asks the servers: answers to prompts, sampled from one version of the policy, and the reward model's scores of them.

Shape letters: Q prompts, S answers to each, B = Q x S rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cluster.contracts.errors import StageFailed
from cluster.contracts.records import GenerateRequest, RolloutClient, SamplingParams
from training.online.rollout import RolloutBatch


@dataclass(frozen=True)
class ScoredAnswers:
    """A prompt's answers are neighbours: row q * S + s is answer s to prompt q."""

    rollouts: RolloutBatch
    scores_B: Tensor  # float32, as the reward servers gave them
    seconds_generate: float
    seconds_score: float


def answer_and_score(
    client: RolloutClient,
    prompts_Q: Sequence[Sequence[int]],
    seeds_QS: Sequence[Sequence[int]],
    *,
    sampling: SamplingParams,
    version: int,
) -> ScoredAnswers:
    """One answer per seed to each prompt, made by policy version `version`, and a score for each.

    Raises `StageFailed` for a token of another version (the servers run weights that are not the trainer's), for
    answers that do not belong to their prompts, and for a score that is not finite.
    """
    requests = [
        GenerateRequest(prompt, replace(sampling, seed=seed))
        for prompt, seeds in zip(prompts_Q, seeds_QS, strict=True)
        for seed in seeds
    ]
    start = time.perf_counter()
    rollouts = client.generate(requests)
    generated = time.perf_counter()
    if [list(r.prompt_ids_P) for r in rollouts] != [list(request.prompt_ids) for request in requests]:
        raise StageFailed("the policy servers' answers do not belong to the prompts that were sent, in their order")
    batch = RolloutBatch.from_rollouts(rollouts)
    versions = sorted(set(batch.versions_BA[batch.answer_mask].tolist()))
    if versions != [version]:
        raise StageFailed(
            f"the policy servers answered with weights of version {versions}, and the trainer holds version {version}; "
            "answers of other weights would make the update wrong (max_staleness is 0)"
        )
    scores_B = torch.tensor(client.score(batch.token_ids()), dtype=torch.float32)
    if scores_B.shape != (len(batch),) or not bool(torch.isfinite(scores_B).all()):
        raise StageFailed(
            f"the reward servers gave {len(scores_B)} scores for {len(batch)} answers, or some not finite"
        )
    return ScoredAnswers(batch, scores_B, generated - start, time.perf_counter() - generated)
