"""The settings of the stages that TRL trains: sft, reward_model and dpo.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cluster.contracts.config import (
    InputFiles,
    InputOf,
    Resources,
    StageConfig,
    StrictModel,
    WorkerGroup,
    not_in_fingerprint,
)
from training.config import Fraction, batch_conflicts


class LoraSettings(StrictModel):
    """Low-rank adapters (PEFT) instead of all weights; merged into the exported model."""

    rank: Annotated[int, Field(ge=1)] = 16

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """the adapters' output is scaled by alpha / rank"""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class TrlConfig(StageConfig):
    """What SFT, reward model and DPO share: the optimiser, the batch, the engine and the workers."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """passes over the training rows; ends on a whole global batch"""

    lr: Annotated[float, Field(gt=0)] = 2e-5
    """peak learning rate"""

    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """after the warm-up, down to 0"""

    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """of all steps"""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's, decoupled"""

    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """decay of the squared gradients' average"""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """gradients are scaled down to this norm"""

    global_batch_size: Annotated[int, Field(ge=1)] = 32
    """rows (SFT) or pairs per optimiser step, over all workers"""

    micro_batch_size: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """rows per worker and forward pass; None: the worker's share of the global batch"""

    max_length: Annotated[int, Field(ge=8)] = 512
    """tokens of a row, prompt and answer together"""

    lora: LoraSettings | None = None
    """None: all weights are trained"""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO: 1 shards optimiser, 2 gradients, 3 weights"""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 needs a GPU: Accelerate refuses it on CPUs"""

    gradient_checkpointing: bool = not_in_fingerprint(default=False)
    """recompute activations: less memory, slower"""

    checkpoint_every_steps: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=50)
    """optimiser steps between checkpoints; they are removed when the stage ends"""

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """the Ray Train workers"""

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.precision == "bf16" and self.workers.gpus == 0:
            yield "precision", "bf16 needs workers.gpus: transformers' trainers refuse it on CPUs; take fp32"
        yield from batch_conflicts(self.global_batch_size, self.micro_batch_size, self.workers)


class SftConfig(TrlConfig):
    """Supervised fine-tuning on conversations, with the loss on the answers only."""

    kind: Literal["sft"] = "sft"

    model: Annotated[str, InputOf(("pretrain", "sft"))]
    """the model to start from"""

    conversations: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """JSON Lines, {"messages": [...]} a row; .gz, .zst"""

    heldout_fraction: Fraction = 0.2
    """of first prompts, kept out of training"""

    split_seed: Annotated[int, Field(ge=0)] = 0
    """chooses which; the same in all stages that split"""

    deduplicate: bool = True
    """repeated conversations count once"""


class RewardModelConfig(TrlConfig):
    """A reward model (one score per conversation) from preference pairs, with the Bradley-Terry loss."""

    kind: Literal["reward_model"] = "reward_model"

    model: Annotated[str, InputOf(("sft", "pretrain"))]
    """the causal model whose body is taken"""

    preferences: Annotated[str, InputOf(("preferences",))]

    compare: Literal["last_token", "every_token"] = "last_token"
    """Where the two answers' scores are compared: after the last token (TRL's own loss), or after every token from the
    first that differs (DeepSpeed-Chat's), which teaches far more per pair; small models need it.
    """

    center_rewards_coefficient: Annotated[float | None, Field(gt=0)] = None
    """pulls a pair's mean score to 0; None: off"""


class DpoConfig(TrlConfig):
    """Direct preference optimisation (Rafailov et al., 2023) of a model against itself as reference."""

    kind: Literal["dpo"] = "dpo"

    model: Annotated[str, InputOf(("sft", "pretrain"))]
    """the policy's start and the reference"""

    preferences: Annotated[str, InputOf(("preferences",))]

    beta: Annotated[float, Field(gt=0)] = 0.1
    """how strongly the policy is held to the reference"""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """the share of pairs taken to be labelled wrongly"""

    sft_loss_weight: Annotated[float, Field(ge=0)] = 0.0
    """adds the chosen answers' own loss, times this; 0: off"""
