"""The settings of pre-training. Importing this costs Pydantic only, since `raymill plan` loads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, Resources, StageConfig, WorkerGroup, execution
from training.config import batch_clashes
from training.models import PRESETS


class PretrainConfig(StageConfig):
    """Pre-training from scratch, or continued from a model."""

    kind: Literal["pretrain"] = "pretrain"

    # What is learned, and by what
    tokens: Annotated[
        str, InputOf(("tokenize", "mixture"))
    ]  # the token shards; those marked held-out are only measured on
    tokenizer: Annotated[str, InputOf(("tokenizer",))]  # the tokenizer the shards were made with
    model: str | dict[str, Any] | None = None  # a preset (tiny ... 7b) or a Hugging Face causal-LM config; new weights
    initial_model: Annotated[str | None, InputOf(("pretrain",))] = None  # instead of `model`: go on from this one

    # How much, in what pieces
    sequence_length: Annotated[int, Field(ge=2)] = 1024  # tokens of a sample
    # Documents are packed end to end, then cut into samples. A token may look back over the whole sample (as GPT-3 and
    # Llama 2 did), or only to where its document begins (as Llama 3 did, which gains as sequences grow long). The
    # second holds for models that mask by position ids (Llama, Mistral, GPT-2, GPT-NeoX; not OPT, Bloom or Mamba).
    attention: Literal["across_documents", "within_documents"] = "across_documents"
    # "concat": documents end to end, cut wherever a sample ends. "best_fit": whole documents fitted into samples, and
    # only those longer than a sample cut; the gaps that remain are padding (metric `padding_fraction`).
    packing: Literal["concat", "best_fit"] = "concat"
    # The order of samples. "samples": from anywhere in the store, one after the other. "windows": windows of
    # neighbouring samples in random order, shuffled within; for spinning disks, and for remote stores over the cache.
    shuffle: Literal["samples", "windows"] = "samples"
    shuffle_window: Annotated[int, Field(ge=1)] = 65_536  # samples of a window, about; where `shuffle` is "windows"
    global_batch_size: Annotated[int, Field(ge=1)] = 64  # sequences per optimizer step, over all workers
    steps: Annotated[int | None, Field(ge=1)] = None  # optimizer steps; give this or `train_tokens`
    train_tokens: Annotated[int | None, Field(ge=1)] = None  # tokens to train on, rounded up to whole steps

    # The optimizer: AdamW
    lr: Annotated[float, Field(gt=0)] = 3e-4  # peak learning rate
    min_lr: Annotated[float, Field(ge=0)] = 0.0  # learning rate of the last step
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # steps of linear warm-up
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"  # after the warm-up, down to min_lr
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # on matrices; norms and biases have none
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)  # AdamW's
    gradient_clipping: Annotated[float | None, Field(gt=0)] = 1.0  # largest global norm; None: not clipped

    # The engine
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1  # DeepSpeed ZeRO: 1 shards optimizer, 2 gradients, 3 weights
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16 keeps fp32 master weights
    deepspeed: dict[str, Any] = Field(default_factory=dict)  # further DeepSpeed settings, passed through

    seed: Annotated[int | None, Field(ge=0)] = None  # of the initial weights and the data order; None: the spec's

    # What does not change the result
    micro_batch_size: Annotated[int | None, Field(ge=1)] = execution(
        default=None, description="sequences per worker and forward pass; None: the worker's whole share of a step"
    )
    data_cache: str | None = execution(
        default=None,
        description="local directory, shared by a machine's workers, for copies of remote token shards; they are kept "
        "when the stage ends. None: one of this user's below the system's temporary directory",
    )
    data_cache_gib: Annotated[float | None, Field(gt=0)] = execution(
        default=None,
        description="GiB of copies at most, of all runs that share the directory; the shards used longest ago make "
        "room. None: as much as the shards have",
    )
    activation_checkpointing: bool = execution(default=False, description="recompute activations: less memory, slower")
    eval_every_steps: Annotated[int | None, Field(ge=1)] = execution(
        default=None, description="steps between held-out measurements; None: only at the end"
    )
    checkpoint_every_steps: Annotated[int, Field(ge=1)] = execution(
        default=100, description="steps between checkpoints; they are removed when the stage ends"
    )
    keep_checkpoints: Annotated[int, Field(ge=1)] = execution(default=2, description="newest checkpoints kept")
    workers: WorkerGroup = execution(default_factory=WorkerGroup, description="the Ray Train workers")

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        if self.steps is not None:
            return self.steps
        assert self.train_tokens is not None
        return -(-self.train_tokens // (self.global_batch_size * self.sequence_length))

    @property
    def rank_micro_batch_size(self) -> int:
        """Sequences of one worker's forward pass."""
        if self.micro_batch_size is not None:
            return self.micro_batch_size
        return self.global_batch_size // self.workers.num_workers

    @property
    def grad_accumulation_steps(self) -> int:
        """Forward passes of one worker per optimizer step."""
        return self.global_batch_size // (self.rank_micro_batch_size * self.workers.num_workers)

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]

    def clashes(self) -> Iterator[tuple[str, str]]:
        if (self.model is None) == (self.initial_model is None):
            yield "model", "give either model (new weights) or initial_model (go on from its weights)"
        if isinstance(self.model, str) and self.model not in PRESETS:
            yield "model", f"is no preset; there are {', '.join(PRESETS)}, or give a config dict"
        if (self.steps is None) == (self.train_tokens is None):
            yield "steps", "give either steps or train_tokens"
        elif self.warmup_steps > self.num_steps:
            yield "warmup_steps", f"is over the {self.num_steps} steps there are"
        if self.min_lr > self.lr:
            yield "min_lr", f"is over the peak lr {self.lr}"
        yield from batch_clashes(self.global_batch_size, self.micro_batch_size, self.workers)
