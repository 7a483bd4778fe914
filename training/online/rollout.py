"""The batch of online RL: answers exactly as the engine made them, as padded tensors.

A row is a prompt with its answer behind it, padded on the right, so no position needs shifting, and causal attention
needs no mask. What belongs to answer tokens has a width of its own: column a is the answer's a-th token.

Shape letters: B rows (one answer each), T tokens of a row (prompt and answer, padded), A answer tokens (padded),
K the positions of a row from which any row's answer is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from cluster.contracts.records import Rollout


@dataclass(frozen=True)
class RolloutBatch:
    """What came from the policy servers."""

    input_ids_BT: Tensor  # int64; prompt, then answer, then zeros
    prompt_lengths_B: Tensor  # int64
    answer_lengths_B: Tensor  # int64, at least 1; the end-of-turn token counts
    sampled_logprobs_BA: Tensor  # float32; the engine's own, natural log, under the sampling temperature
    versions_BA: Tensor  # int32; the policy version that made each token, -1 in the padding
    finished_B: Tensor  # bool; ended by itself, not at the length limit

    @classmethod
    def from_rollouts(cls, rollouts: Sequence[Rollout]) -> RolloutBatch:
        """Ragged to padded. Raises `ValueError` for an empty answer, an empty prompt or no rollouts."""
        prompts = torch.tensor([len(r.prompt_ids_P) for r in rollouts])
        answers = torch.tensor([len(r.answer_ids_A) for r in rollouts])
        if len(rollouts) == 0 or int(prompts.min()) == 0 or int(answers.min()) == 0:
            raise ValueError(
                "a batch needs at least one rollout, and each a prompt and an answer of at least one token"
            )
        ids = np.zeros((len(rollouts), int((prompts + answers).max())), dtype=np.int64)
        logprobs = np.zeros((len(rollouts), int(answers.max())), dtype=np.float32)
        versions = np.full_like(logprobs, -1, dtype=np.int32)
        for b, rollout in enumerate(rollouts):
            prompt_length, answer_length = len(rollout.prompt_ids_P), len(rollout.answer_ids_A)
            ids[b, :prompt_length] = rollout.prompt_ids_P
            ids[b, prompt_length : prompt_length + answer_length] = rollout.answer_ids_A
            logprobs[b, :answer_length] = rollout.logprobs_A
            versions[b, :answer_length] = rollout.versions_A
        return cls(
            input_ids_BT=torch.from_numpy(ids),
            prompt_lengths_B=prompts,
            answer_lengths_B=answers,
            sampled_logprobs_BA=torch.from_numpy(logprobs),
            versions_BA=torch.from_numpy(versions),
            finished_B=torch.tensor([r.finish_reason == "stop" for r in rollouts]),
        )

    def __len__(self) -> int:
        return len(self.input_ids_BT)

    @property
    def answer_mask(self) -> Tensor:
        """bool `[B, A]`; True on answer tokens."""
        columns_A = torch.arange(self.sampled_logprobs_BA.shape[1], device=self.input_ids_BT.device)
        return columns_A < self.answer_lengths_B.unsqueeze(1)

    @property
    def kept_positions(self) -> Tensor:
        """int64 `[K]`; from the last prompt token of the shortest prompt to the last but one position of the rows."""
        first = int(self.prompt_lengths_B.min()) - 1
        return torch.arange(first, self.input_ids_BT.shape[1] - 1, device=self.input_ids_BT.device)

    @property
    def next_ids(self) -> Tensor:
        """int64 `[B, K]`; the token that each kept position predicts."""
        return self.input_ids_BT[:, self.kept_positions + 1]

    def answers_of(self, values_BK: Tensor) -> Tensor:
        """Values at the kept positions, moved to the answer tokens that these positions predict: `[B, A]`, 0 padded."""
        mask_BA = self.answer_mask
        columns_A = torch.arange(mask_BA.shape[1], device=values_BK.device)
        positions_BA = (self.prompt_lengths_B - self.prompt_lengths_B.min()).unsqueeze(1) + columns_A
        taken_BA = values_BK.gather(1, positions_BA.clamp(max=values_BK.shape[1] - 1))
        return torch.where(mask_BA, taken_BA, 0.0)

    def rows(self, rows_B: Tensor) -> RolloutBatch:
        """Some rows, with the padding that only other rows needed cut off."""
        width_T = int((self.prompt_lengths_B + self.answer_lengths_B)[rows_B].max())
        width_A = int(self.answer_lengths_B[rows_B].max())
        return _rows(self, rows_B, width_T, width_A)

    def to(self, device: torch.device) -> RolloutBatch:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def token_ids(self) -> list[list[int]]:
        """Each row's prompt and answer without padding, as a reward model takes it."""
        lengths = (self.prompt_lengths_B + self.answer_lengths_B).tolist()
        return [row[:length] for row, length in zip(self.input_ids_BT.tolist(), lengths, strict=True)]

    def answers(self) -> list[tuple[int, ...]]:
        """Each row's answer token ids."""
        starts = self.prompt_lengths_B.tolist()
        return [tuple(ids[start:]) for ids, start in zip(self.token_ids(), starts, strict=True)]


@dataclass(frozen=True)
class Experience:
    """Answers with all that the optimiser needs, fixed for the epochs of one update. All float32 `[B, A]`, 0 padded."""

    rollouts: RolloutBatch
    old_logprobs_BA: Tensor  # the trainer's own, before this update's first step
    reference_logprobs_BA: Tensor
    old_values_BA: Tensor  # of the state before each token
    advantages_BA: Tensor
    returns_BA: Tensor

    def __len__(self) -> int:
        return len(self.rollouts)

    def rows(self, rows_B: Tensor) -> Experience:
        """Some rows, with the padding that only other rows needed cut off."""
        rollouts = self.rollouts.rows(rows_B)
        width_A = rollouts.sampled_logprobs_BA.shape[1]
        taken = {f.name: getattr(self, f.name)[rows_B, :width_A] for f in fields(self) if f.name != "rollouts"}
        return Experience(rollouts=rollouts, **taken)


def bucket_by_length(lengths_B: Tensor, size: int) -> list[Tensor]:
    """Row numbers in micro-batches of `size` rows (the last may be smaller), rows of like length together.

    The number of micro-batches depends on the number of rows alone, so ranks with equally many rows run equally many
    passes, as ZeRO's collectives need.
    """
    return list(torch.argsort(lengths_B, stable=True).split(size))


def _rows(batch: RolloutBatch, rows_B: Tensor, width_T: int, width_A: int) -> RolloutBatch:
    return RolloutBatch(
        input_ids_BT=batch.input_ids_BT[rows_B, :width_T],
        prompt_lengths_B=batch.prompt_lengths_B[rows_B],
        answer_lengths_B=batch.answer_lengths_B[rows_B],
        sampled_logprobs_BA=batch.sampled_logprobs_BA[rows_B, :width_A],
        versions_BA=batch.versions_BA[rows_B, :width_A],
        finished_B=batch.finished_B[rows_B],
    )
