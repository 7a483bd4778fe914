"""The settings of pre-training. Importing this costs Pydantic only, since `raymill plan` loads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import (
    InputOf,
    Resources,
    Sections,
    StageConfig,
    StrictModel,
    WorkerGroup,
    not_in_fingerprint,
)
from training.config import CAUSAL_MODEL, Tracker, batch_conflicts
from training.engine.deepspeed_config import Offload, Precision
from training.models import PRESETS, ContextExtension
from training.pretrain.batch_size_warmup import BatchPlan
from training.pretrain.divergence import DivergenceSettings

AttentionKernel = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


class BatchSizeWarmup(StrictModel):
    """Batches that grow to the global batch size over the first tokens of a run, as GPT-3's did."""

    start: Annotated[int, Field(ge=1)]
    """Sequences of the first steps' batches."""

    increment: Annotated[int, Field(ge=1)]
    """Sequences that are added at a time."""

    tokens: Annotated[int, Field(ge=1)]
    """Tokens until the batch has its full size. Each size in between gets the same share of them."""


class PretrainConfig(StageConfig):
    """Pre-training from scratch, or continued from a model."""

    stage_version: ClassVar[int] = 2  # 2: losses piece by piece; bf16 sums gradients in fp32, begins right at ZeRO-0
    kind: Literal["pretrain"] = "pretrain"

    sections: ClassVar[Sections] = {
        "Inputs": ("tokens", "tokenizer"),
        "Model": ("model", "initial_model", "context_extension", "seed"),
        "Samples": ("sequence_length", "attention", "packing", "shuffle", "shuffle_window"),
        "Amount": ("global_batch_size", "batch_size_warmup", "steps", "train_tokens"),
        "Optimizer (AdamW)": (
            "lr",
            "min_lr",
            "warmup_steps",
            "schedule",
            "weight_decay",
            "betas",
            "gradient_clipping",
            "z_loss_coef",
        ),
        "Engine": (
            "zero_stage",
            "precision",
            "deepspeed",
            "micro_batch_size",
            "activation_checkpointing",
            "offload",
            "compile",
            "attention_kernel",
        ),
        "When a step goes wrong": ("divergence",),
        "Measurements": ("eval_every_steps", "eval_tokens", "peak_flops", "trackers"),
        "Checkpoints": (
            "checkpoint_every_steps",
            "async_checkpoints",
            "keep_checkpoints",
            "keep_every_steps",
            "keep_best",
        ),
        "Execution": ("data_cache", "data_cache_gib", "workers"),
    }

    tokens: Annotated[str, InputOf(("tokenize", "mixture"))]
    """The tokenize or mixture stage, or a directory with such an artifact, whose token shards are learned. Shards
    marked held-out are only measured on.
    """

    tokenizer: Annotated[str, InputOf(("tokenizer",))]
    """The tokenizer stage, or a directory with a tokenizer, that the shards were made with. It is saved with the model.
    """

    model: str | dict[str, Any] | None = None
    """A new model with fresh weights: a preset's name (tiny, 30m, 125m, 350m, 1b, 3b, 7b) or a Hugging Face causal-LM
    config with its `model_type`. `null` where `initial_model` is given; one of the two is needed.
    """

    initial_model: Annotated[str | None, CAUSAL_MODEL] = None
    """Training goes on from the weights of this model, instead of a new one: any stage that makes a causal model, or
    a directory with a Hugging Face model. `null`, the default, begins with the new `model`.
    """

    context_extension: ContextExtension | None = None
    """Stretches the rotary positions of `initial_model` to longer sequences. `null` keeps its own."""

    sequence_length: Annotated[int, Field(ge=2)] = 1024
    """Tokens of a sample. Memory of attention grows with it, and the model must have so many positions."""

    attention: Literal["across_documents", "within_documents"] = "across_documents"
    """How far a token looks back. Documents are packed into samples: `across_documents` lets it see the whole sample
    (as GPT-3 and Llama 2), `within_documents` only its own document (as Llama 3, which gains as sequences grow long).
    The second is for models that mask by position ids (Llama, Mistral, GPT-2, GPT-NeoX; not OPT, Bloom or Mamba);
    others are refused.
    """

    packing: Literal["concat", "best_fit"] = "concat"
    """How documents fill samples. `concat` puts them end to end and cuts wherever a sample ends. `best_fit` (Ding et
    al. 2024) fits whole documents into samples and cuts only those longer than a sample; the gaps are padding (metric
    `padding_fraction`).
    """

    shuffle: Literal["samples", "windows"] = "samples"
    """The order of samples. `samples` draws each from anywhere in the store. `windows` takes windows of neighbouring
    samples in random order and shuffles within each, which suits spinning disks and remote stores larger than the
    cache.
    """

    shuffle_window: Annotated[int, Field(ge=1)] = 65_536
    """Samples of a window, about, where `shuffle` is `windows`."""

    global_batch_size: Annotated[int, Field(ge=1)] = 64
    """Sequences of one optimizer step, over all workers. Tokens of a step are this times `sequence_length`."""

    batch_size_warmup: BatchSizeWarmup | None = None
    """Smaller batches at the beginning. `null` gives all steps `global_batch_size`."""

    steps: Annotated[int | None, Field(ge=1)] = None
    """Number of optimizer steps. Give this or `train_tokens`."""

    train_tokens: Annotated[int | None, Field(ge=1)] = None
    """Number of tokens to train on, rounded up to whole steps. Give this or `steps`."""

    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate of AdamW."""

    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate of the last step."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises to its peak in a straight line."""

    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """How the learning rate goes from `lr` to `min_lr` after the warm-up. `wsd` is constant until the last fifth of all
    steps and then falls by one minus a square root (Hägele et al. 2024), so that a run can be prolonged.
    """

    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's decoupled weight decay of matrices. Norms and biases have none."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW's decay rates of the averages of gradients and of squared gradients."""

    gradient_clipping: Annotated[float | None, Field(gt=0)] = 1.0
    """Largest norm of all gradients together; larger ones are scaled down to it. `null` clips nothing."""

    z_loss_coef: Annotated[float | None, Field(gt=0)] = None
    """Weight of log(Z)^2 beside the loss, which keeps logits small (PaLM uses 1e-4). `null` turns it off."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """DeepSpeed's ZeRO stage, what is sharded over the workers: 1 the optimizer's state, 2 gradients too, 3 weights
    too; 0 nothing. Higher stages save memory and communicate more.
    """

    precision: Precision = "fp32"
    """Number format of forward and backward passes. `bf16` keeps fp32 master weights; use it where the hardware has
    bf16, since it is many times slower on CPUs without.
    """

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further settings of DeepSpeed's JSON config, passed through. What contradicts a setting of this stage is refused.
    """

    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    """Seed of the initial weights and of the order of the data. `null` takes the spec's."""

    micro_batch_size: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """Sequences of one worker's forward pass. Smaller ones take less memory and more passes. `null` takes the worker's
    whole share of a step.
    """

    data_cache: str | None = not_in_fingerprint(default=None)
    """Local directory for copies of remote token shards, shared by a machine's workers and kept when the stage ends.
    `null` takes one of this user's below the system's temporary directory. Local shards are never copied.
    """

    data_cache_gib: Annotated[float | None, Field(gt=0)] = not_in_fingerprint(default=None)
    """Most GiB of copies, of all runs that share the directory; the shards used longest ago make room. `null` takes as
    much as the shards have.
    """

    activation_checkpointing: bool = not_in_fingerprint(default=False)
    """Whether activations are recomputed in the backward pass, which takes less memory and about a third more
    computation.
    """

    divergence: DivergenceSettings = not_in_fingerprint(default=DivergenceSettings())
    """What is done about steps that go wrong. It may be changed to go on after a stop."""

    offload: Offload = not_in_fingerprint(default="none")
    """What lies in host memory instead of the GPU's: the optimizer's state (with ZeRO 1 to 3), or the weights too (with
    ZeRO 3). It saves GPU memory and is slower.
    """

    compile: bool = not_in_fingerprint(default=False)
    """Whether torch.compile is used: a slow start, then faster steps on GPUs."""

    attention_kernel: AttentionKernel | None = not_in_fingerprint(default=None)
    """The attention implementation, by transformers' name. `null` leaves the choice to transformers, which is SDPA
    where the model has it.
    """

    peak_flops: Annotated[float | None, Field(gt=0)] = not_in_fingerprint(default=None)
    """FLOP/s that one worker's device can do at most, for the MFU. `null` looks it up, or measures it at the start
    where it is not known.
    """

    eval_every_steps: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """Steps between measurements of the held-out loss. `null` measures at the end only."""

    eval_tokens: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=1_000_000)
    """Held-out tokens of a measurement on the way. `null` takes all, as the measurement at the end does."""

    trackers: tuple[Tracker, ...] = not_in_fingerprint(default=("tensorboard",))
    """Where metrics go beside metrics.jsonl. `wandb` and `mlflow` need `pip install raymill[tracking]`."""

    checkpoint_every_steps: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=100)
    """Steps between checkpoints. What was trained since the last one is lost when a worker dies. Checkpoints are
    removed when the stage ends, but for those that `keep_every_steps` and `keep_best` name.
    """

    async_checkpoints: bool = not_in_fingerprint(default=True)
    """Whether checkpoints are written while training goes on. It costs each machine a copy of its workers' part in host
    memory.
    """

    keep_checkpoints: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=2)
    """Number of newest checkpoints that are kept while the stage runs."""

    keep_every_steps: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """The checkpoints of every so many steps are kept, also after the stage ended. It is a multiple of
    `checkpoint_every_steps`. `null` keeps none for this.
    """

    keep_best: Annotated[int, Field(ge=0)] = not_in_fingerprint(default=0)
    """Number of checkpoints of the lowest held-out loss that are kept, also after the stage ended. It needs
    `eval_every_steps`. 0 keeps none for this.
    """

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """The workers that train together."""

    @property
    def batch_plan(self) -> BatchPlan:
        """The batch size of each step."""
        warmup = self.batch_size_warmup
        if warmup is None:
            return BatchPlan(self.global_batch_size)
        samples = -(-warmup.tokens // self.sequence_length)
        return BatchPlan(self.global_batch_size, warmup.start, warmup.increment, samples)

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        if self.steps is not None:
            return self.steps
        assert self.train_tokens is not None
        return self.batch_plan.steps_for(-(-self.train_tokens // self.sequence_length))

    @property
    def rank_micro_batch_size(self) -> int:
        """Sequences of one worker's forward pass."""
        if self.micro_batch_size is not None:
            return self.micro_batch_size
        return self.global_batch_size // self.workers.num_workers

    @property
    def grad_accumulation_steps(self) -> int:
        """Forward passes of one worker per optimizer step, after any warm-up of the batch size."""
        return self.global_batch_size // (self.rank_micro_batch_size * self.workers.num_workers)

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]

    def conflicts(self) -> Iterator[tuple[str, str]]:
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
        if self.keep_every_steps is not None and self.keep_every_steps % self.checkpoint_every_steps:
            yield "keep_every_steps", f"must be a multiple of checkpoint_every_steps ({self.checkpoint_every_steps})"
        if self.keep_best and (self.eval_every_steps is None or self.checkpoint_every_steps % self.eval_every_steps):
            yield (
                "keep_best",
                f"needs a held-out loss at each checkpoint: set eval_every_steps to a divisor of "
                f"checkpoint_every_steps ({self.checkpoint_every_steps})",
            )
        yield from batch_conflicts(self.global_batch_size, self.micro_batch_size, self.workers)
        yield from self._batch_warmup_conflicts()
        if self.context_extension is not None and self.initial_model is None:
            yield "context_extension", "is for an initial_model; a new model has its positions in `model`"
        if self.offload != "none" and self.zero_stage == 0:
            yield "offload", "needs zero_stage 1, 2 or 3"
        if self.offload == "optimizer_and_weights" and self.zero_stage != 3:
            yield "offload", f"of weights needs zero_stage 3, and it is {self.zero_stage}"
        if self.attention == "within_documents" and str(self.attention_kernel).startswith("flash"):
            yield (
                "attention_kernel",
                "flash attention takes packed documents in another form; take sdpa or flex_attention, or leave it out",
            )
        if self.attention_kernel == "flex_attention" and not self.workers.gpus:
            yield "attention_kernel", "flex_attention trains on GPUs only (workers.gpus is 0); leave it out"
        if "rewind" in (self.divergence.not_finite, self.divergence.spike):
            reach = (self.keep_checkpoints - 1) * self.checkpoint_every_steps
            if reach < self.divergence.rewind_steps:
                yield (
                    "divergence.rewind_steps",
                    f"is {self.divergence.rewind_steps}, and the {self.keep_checkpoints} checkpoints kept, one every "
                    f"{self.checkpoint_every_steps} steps, reach back {reach}; raise keep_checkpoints",
                )

    def _batch_warmup_conflicts(self) -> Iterator[tuple[str, str]]:
        warmup = self.batch_size_warmup
        if warmup is None:
            return
        if warmup.start >= self.global_batch_size:
            yield "batch_size_warmup.start", f"must be below global_batch_size {self.global_batch_size}"
            return
        per_pass = self.workers.num_workers * self.rank_micro_batch_size
        wrong = [size for size in self.batch_plan.sizes() if not per_pass or size % per_pass]
        if wrong and self.micro_batch_size is None:
            yield "micro_batch_size", "must be given beside batch_size_warmup, whose batches are of several sizes"
        elif wrong:
            yield (
                "batch_size_warmup",
                f"has steps of {wrong[0]} sequences, no multiple of workers x micro batch = {per_pass}",
            )
