"""TRL's `RewardTrainer` with other rows: groups of compared answers, or single answers with scores.

The trainer's loop, arguments, metrics of tokens and adapters stay TRL's. A training row of groups has `sequences`,
`better`, `worse`, `margins` and `weight`; one of scores has `input_ids`, `target` and `weight`. All conversations of a
micro-batch go through the model in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.feedback.encoded_groups import EncodedGroup, ScoredSequence
from training.inference.sequence_scores import padded
from training.post_training.comparison_losses import (
    comparison_losses,
    mean_over_groups,
    prefix_comparison_losses,
    score_loss,
)

_CPU = torch.device("cpu")


def group_rows(groups: Sequence[EncodedGroup], *, margin_scale: float) -> list[dict[str, Any]]:
    """The training rows of groups, each margin times `margin_scale`."""
    return [
        {
            "sequences": group.sequences,
            "better": [better for better, _, _ in group.comparisons],
            "worse": [worse for _, worse, _ in group.comparisons],
            "margins": [margin * margin_scale for _, _, margin in group.comparisons],
            "weight": group.weight,
        }
        for group in groups
    ]


def score_rows(scored: Sequence[ScoredSequence], *, mean: float, std: float) -> list[dict[str, Any]]:
    """The training rows of scored answers: the targets are the scores minus `mean`, divided by `std`."""
    return [
        {"input_ids": item.input_ids, "target": (item.score - mean) / std, "weight": item.weight} for item in scored
    ]


@dataclass(frozen=True)
class GroupCollator:
    """A micro-batch of groups: `input_ids` [N, T] of all their conversations, and which are compared."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        input_ids_NT, attention_mask_NT = padded(
            [ids for row in rows for ids in row["sequences"]], self.pad_token_id, _CPU
        )
        better, worse, margins, group = [], [], [], []
        first = 0
        for number, row in enumerate(rows):
            better += [first + place for place in row["better"]]
            worse += [first + place for place in row["worse"]]
            margins += row["margins"]
            group += [number] * len(row["better"])
            first += len(row["sequences"])
        return {
            "input_ids": input_ids_NT,
            "attention_mask": attention_mask_NT,
            "better": torch.tensor(better),
            "worse": torch.tensor(worse),
            "margins": torch.tensor(margins, dtype=torch.float32),
            "group": torch.tensor(group),
            "weights": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
        }


@dataclass(frozen=True)
class ScoreCollator:
    """A micro-batch of scored answers: `input_ids` [N, T] and their targets."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        input_ids_NT, attention_mask_NT = padded([row["input_ids"] for row in rows], self.pad_token_id, _CPU)
        return {
            "input_ids": input_ids_NT,
            "attention_mask": attention_mask_NT,
            "targets": torch.tensor([row["target"] for row in rows], dtype=torch.float32),
            "weights": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
        }


def group_trainer_class(*, every_token: bool) -> Any:
    """TRL's trainer with the losses of `comparison_losses.py` on groups."""

    class GroupTrainer(_own_rows()):  # type: ignore[misc]
        """Learns from all comparisons of a prompt in one step."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs, rewards_N = self.forward(model, inputs)
            better_P, worse_P = inputs["better"], inputs["worse"]
            center = self.args.center_rewards_coefficient or 0.0
            if every_token:
                losses_P = prefix_comparison_losses(
                    self.scores_NT1.squeeze(-1).float(),
                    inputs["input_ids"],
                    inputs["attention_mask"].sum(dim=1),
                    better_P,
                    worse_P,
                    inputs["margins"],
                    center_coefficient=center,
                )
            else:
                losses_P = comparison_losses(rewards_N, better_P, worse_P, inputs["margins"], center_coefficient=center)
            loss = mean_over_groups(losses_P, inputs["group"], inputs["weights"])
            with torch.no_grad():
                differences_P = rewards_N[better_P] - rewards_N[worse_P]
                self.note(accuracy=(differences_P > 0).float().mean(), margin=differences_P.mean())
            return (loss, outputs) if return_outputs else loss

    return GroupTrainer


def score_trainer_class() -> Any:
    """TRL's trainer with the squared error to the answers' normalised scores."""

    class ScoreTrainer(_own_rows()):  # type: ignore[misc]
        """Learns from one score an answer."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs, rewards_N = self.forward(model, inputs)
            loss = score_loss(rewards_N, inputs["targets"], inputs["weights"])
            with torch.no_grad():
                self.note(mean_reward=rewards_N.mean(), absolute_error=(rewards_N - inputs["targets"]).abs().mean())
            return (loss, outputs) if return_outputs else loss

    return ScoreTrainer


def keep_scores(trainer: Any, kept: Any) -> None:
    """Have `kept` called as a hook on what the model's head gives: one score a position.

    Called in a step, after DeepSpeed's own hooks, so that the scores seen are the ones ZeRO-3 tracks.
    """
    score = next(m for name, m in trainer.model.named_modules() if name.split(".")[-1] == "score")
    score.register_forward_hook(kept)


def _own_rows() -> Any:
    from trl import RewardTrainer

    class OwnRows(RewardTrainer):
        """TRL's trainer, which would refuse rows that are no pairs."""

        scores_NT1: Any = None

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = self.train_dataset.column_names

        def forward(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, torch.Tensor]:
            """(the model's outputs, rewards [N] in fp32); counts the tokens, as TRL does."""
            if self.scores_NT1 is None:
                keep_scores(self, self._keep)
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            if self.model.training:
                num_tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum().item()
                self._total_train_tokens += num_tokens
            self._metrics[self._mode]["num_tokens"] = [self._total_train_tokens]
            return outputs, outputs.logits.squeeze(-1).float()

        @property
        def _mode(self) -> str:
            return "train" if self.model.training else "eval"

        def note(self, **figures: torch.Tensor) -> None:
            """Log the mean of each figure over the ranks."""
            for name, value in figures.items():
                self._metrics[self._mode][name].append(self.accelerator.gather_for_metrics(value).mean().item())

        def _keep(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
            self.scores_NT1 = output

    return OwnRows
