"""The configs of post-training: SFT, preference pairs, reward model, DPO and evaluation.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import (
    InputFiles,
    InputOf,
    Resources,
    StageConfig,
    StrictModel,
    WorkerGroup,
    execution,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
CAUSAL_MODELS = ("pretrain", "sft", "dpo", "ppo")  # kinds whose artifact is an `AutoModelForCausalLM` directory


def batch_clashes(
    global_batch_size: int, micro_batch_size: int | None, workers: WorkerGroup
) -> Iterator[tuple[str, str]]:
    """What a stage's `clashes` says where its global batch can't be dealt out evenly.

    The rule, for a first run and for a resume with another number of workers: `num_workers` divides the global
    batch, and `micro_batch_size` a worker's share of it.
    """
    share, rest = divmod(global_batch_size, workers.num_workers)
    if rest:
        yield (
            "global_batch_size",
            f"is {global_batch_size} and can't be dealt out to workers.num_workers = {workers.num_workers}; numbers of "
            f"workers that it can: {_divisors(global_batch_size)}",
        )
    elif micro_batch_size and share % micro_batch_size:
        yield (
            "micro_batch_size",
            f"is {micro_batch_size} and doesn't divide the {share} rows that each of {workers.num_workers} workers "
            f"has of global_batch_size {global_batch_size}; set it to one of {_divisors(share)}, or leave it out",
        )


def _divisors(number: int) -> str:
    """All divisors, as people read them: "1, 2, 4"."""
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)


class LoraSettings(StrictModel):
    """Low-rank adapters (PEFT) instead of all weights; merged into the exported model."""

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0  # the adapters' output is scaled by alpha / rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class TrlConfig(StageConfig):
    """What SFT, reward model and DPO share: the optimiser, the batch, the engine and the workers."""

    epochs: Annotated[float, Field(gt=0)] = 1.0  # passes over the training rows; ends on a whole global batch
    lr: Annotated[float, Field(gt=0)] = 2e-5  # peak learning rate
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up, down to 0
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of all steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # AdamW's, decoupled
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999  # decay of the squared gradients' average
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # gradients are scaled down to this norm
    global_batch_size: Annotated[int, Field(ge=1)] = 32  # rows (SFT) or pairs per optimiser step, over all workers
    micro_batch_size: Annotated[int | None, Field(ge=1)] = execution(
        default=None, description="rows per worker and forward pass; None: the worker's share of the global batch"
    )
    max_length: Annotated[int, Field(ge=8)] = 512  # tokens of a row, prompt and answer together
    lora: LoraSettings | None = None  # None: all weights are trained
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2  # DeepSpeed ZeRO: 1 shards optimiser, 2 gradients, 3 weights
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16 needs a GPU: Accelerate refuses it on CPUs
    gradient_checkpointing: bool = execution(default=False, description="recompute activations: less memory, slower")
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = execution(
        default=50, description="optimiser steps between checkpoints; they are removed when the stage ends"
    )
    workers: WorkerGroup = execution(default_factory=WorkerGroup, description="the Ray Train workers")

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]

    def clashes(self) -> Iterator[tuple[str, str]]:
        if self.precision == "bf16" and self.workers.gpus == 0:
            yield "precision", "bf16 needs workers.gpus: transformers' trainers refuse it on CPUs; take fp32"
        yield from batch_clashes(self.global_batch_size, self.micro_batch_size, self.workers)


class SftConfig(TrlConfig):
    """Supervised fine-tuning on conversations, with the loss on the answers only."""

    kind: Literal["sft"] = "sft"
    model: Annotated[str, InputOf(("pretrain", "sft"))]  # the model to start from
    conversations: Annotated[
        list[str], InputFiles(), Field(min_length=1)
    ]  # JSON Lines, {"messages": [...]} a row; .gz, .zst
    heldout_fraction: Fraction = 0.2  # of first prompts, kept out of training
    split_seed: Annotated[int, Field(ge=0)] = 0  # chooses which; the same in all stages that split
    deduplicate: bool = True  # repeated conversations count once


class PreferencesConfig(StageConfig):
    """Preference pairs out of conversations: the person's answer against one made worse at equal length."""

    uses_seed: ClassVar[bool] = False  # pairs are drawn by `split_seed` and the row itself

    kind: Literal["preferences"] = "preferences"
    conversations: Annotated[list[str], InputFiles(), Field(min_length=1)]  # JSON Lines, as for SFT
    heldout_fraction: Fraction = 0.2  # of first prompts, kept out of training
    split_seed: Annotated[int, Field(ge=0)] = 0  # chooses which; the same in all stages that split
    min_words: Annotated[int, Field(ge=4)] = 4  # shorter answers give no pair: too few words to disturb
    max_words: Annotated[int | None, Field(ge=4)] = None  # longer answers give no pair; None: no limit
    disturbed_per_answer: Annotated[int, Field(ge=0)] = 4  # training pairs per answer against its own words, reordered
    other_answers_per_answer: Annotated[int, Field(ge=0)] = 0  # ... against answers to other prompts, of as many words
    heldout_per_answer: Annotated[int, Field(ge=1)] = 2  # held-out pairs per answer and kind of negative in use
    # JSON Lines with a `text` a row: neighbouring sentences make further pairs, for reward models to learn from first
    # principles what good text is where conversations are few (Askell et al., 2021). None: no such pairs.
    texts: Annotated[list[str] | None, InputFiles(), Field(min_length=1)] = None
    text_answers: Annotated[int, Field(ge=1)] = 4_000  # sentences drawn from the texts; one pair each
    text_max_words: Annotated[int, Field(ge=4)] = 24  # of either sentence; the least is min_words

    def clashes(self) -> Iterator[tuple[str, str]]:
        if not self.disturbed_per_answer and not self.other_answers_per_answer:
            yield "disturbed_per_answer", "is 0, and so is other_answers_per_answer: there would be no pairs"
        if self.max_words is not None and self.max_words < self.min_words:
            yield "max_words", f"is below min_words {self.min_words}"
        if self.texts is not None and self.text_max_words < self.min_words:
            yield "text_max_words", f"is below min_words {self.min_words}"


class RewardModelConfig(TrlConfig):
    """A reward model (one score per conversation) from preference pairs, with the Bradley-Terry loss."""

    kind: Literal["reward_model"] = "reward_model"
    model: Annotated[str, InputOf(("sft", "pretrain"))]  # the causal model whose body is taken
    preferences: Annotated[str, InputOf(("preferences",))]
    # Where the two answers' scores are compared: after the last token (TRL's own loss), or after every token from
    # the first that differs (DeepSpeed-Chat's), which teaches far more per pair; small models need it.
    compare: Literal["last_token", "every_token"] = "last_token"
    center_rewards_coefficient: Annotated[float | None, Field(gt=0)] = None  # pulls a pair's mean score to 0; None: off


class DpoConfig(TrlConfig):
    """Direct preference optimisation (Rafailov et al., 2023) of a model against itself as reference."""

    kind: Literal["dpo"] = "dpo"
    model: Annotated[str, InputOf(("sft", "pretrain"))]  # the policy's start and the reference
    preferences: Annotated[str, InputOf(("preferences",))]
    beta: Annotated[float, Field(gt=0)] = 0.1  # how strongly the policy is held to the reference
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # the share of pairs taken to be labelled wrongly
    sft_loss_weight: Annotated[float, Field(ge=0)] = 0.0  # adds the chosen answers' own loss, times this; 0: off


class EvaluateConfig(StageConfig):
    """Models side by side on the same held-out tokens, answers, prompts and pairs.

    All models must be of one tokenizer.
    """

    kind: Literal["evaluate"] = "evaluate"
    tokens: Annotated[str, InputOf(("tokenize", "mixture"))]  # its held-out shards
    conversations: Annotated[list[str], InputFiles(), Field(min_length=1)]  # the files SFT was given
    base: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    sft: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    dpo: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    ppo: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    reward_model: Annotated[str | None, InputOf(("reward_model",))] = None  # None: no rewards
    preferences: Annotated[str | None, InputOf(("preferences",))] = None  # None: no preference accuracy
    heldout_fraction: Fraction = 0.2  # as in the other stages
    split_seed: Annotated[int, Field(ge=0)] = 0  # as in the other stages
    max_tokens: Annotated[int, Field(ge=1)] = 50_000  # of the held-out shards, per model
    sequence_length: Annotated[int, Field(ge=2)] = 256  # tokens of a window of them
    max_length: Annotated[int, Field(ge=8)] = 512  # tokens of a conversation
    num_prompts: Annotated[int, Field(ge=2)] = 128  # held-out prompts answered by sampling
    max_new_tokens: Annotated[int, Field(ge=1)] = 48  # of an answer
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of the sampled answers
    num_samples: Annotated[int, Field(ge=0)] = 6  # prompts whose answers are shown
    batch_size: Annotated[int, Field(ge=1)] = 32  # rows per forward pass; sampled answers depend on it
    workers: WorkerGroup = execution(
        default_factory=WorkerGroup, description="each takes whole models in turn; more workers than models are idle"
    )

    def clashes(self) -> Iterator[tuple[str, str]]:
        if not self.models():
            yield "base", "name at least one model to evaluate: base, sft, dpo or ppo"

    def models(self) -> dict[str, str]:
        """Role -> the stage it comes from, of the models given."""
        given = {"base": self.base, "sft": self.sft, "dpo": self.dpo, "ppo": self.ppo}
        return {role: stage for role, stage in given.items() if stage is not None}

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]
