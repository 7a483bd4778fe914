"""The settings of pre-training. Importing this costs Pydantic only, since `raymill plan` loads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, Resources, StageConfig, StrictModel, WorkerGroup, not_in_fingerprint
from training.config import CAUSAL_MODELS, batch_conflicts
from training.engine.deepspeed_config import Offload, Precision
from training.models import PRESETS, ContextExtension
from training.pretrain.batch_size_warmup import BatchPlan
from training.pretrain.divergence import DivergenceSettings

AttentionKernel = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]


class BatchSizeWarmup(StrictModel):
    """Batches that grow to the global batch size over the first tokens of a run, as GPT-3's did."""

    start: Annotated[int, Field(ge=1)]
    """sequences of the first steps"""

    increment: Annotated[int, Field(ge=1)]
    """sequences added at a time"""

    tokens: Annotated[int, Field(ge=1)]
    """tokens until the batch has its full size; each size gets the same share"""


class PretrainConfig(StageConfig):
    """Pre-training from scratch, or continued from a model."""

    stage_version: ClassVar[int] = 2  # 2: losses piece by piece; bf16 sums gradients in fp32, begins right at ZeRO-0
    kind: Literal["pretrain"] = "pretrain"

    # What is learned, and by what
    tokens: Annotated[str, InputOf(("tokenize", "mixture"))]
    """the token shards; those marked held-out are only measured on"""

    tokenizer: Annotated[str, InputOf(("tokenizer",))]
    """the tokenizer the shards were made with"""

    model: str | dict[str, Any] | None = None
    """a preset (tiny ... 7b) or a Hugging Face causal-LM config; new weights"""

    initial_model: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    """instead of `model`: go on from this one"""

    context_extension: ContextExtension | None = None
    """of the initial model; None: its own positions"""

    # How much, in what pieces
    sequence_length: Annotated[int, Field(ge=2)] = 1024
    """tokens of a sample"""

    attention: Literal["across_documents", "within_documents"] = "across_documents"
    """Documents are packed end to end, then cut into samples. A token may look back over the whole sample (as GPT-3 and
    Llama 2 did), or only to where its document begins (as Llama 3 did, which gains as sequences grow long). The second
    holds for models that mask by position ids (Llama, Mistral, GPT-2, GPT-NeoX; not OPT, Bloom or Mamba).
    """

    packing: Literal["concat", "best_fit"] = "concat"
    """"concat": documents end to end, cut wherever a sample ends. "best_fit": whole documents fitted into samples, and
    only those longer than a sample cut; the gaps that remain are padding (metric `padding_fraction`).
    """

    shuffle: Literal["samples", "windows"] = "samples"
    """The order of samples. "samples": from anywhere in the store, one after the other. "windows": windows of
    neighbouring samples in random order, shuffled within; for spinning disks, and for remote stores over the cache.
    """

    shuffle_window: Annotated[int, Field(ge=1)] = 65_536
    """samples of a window, about; where `shuffle` is "windows"."""

    global_batch_size: Annotated[int, Field(ge=1)] = 64
    """sequences per optimizer step, over all workers"""

    batch_size_warmup: BatchSizeWarmup | None = None
    """smaller batches at first; None: all of the same size"""

    steps: Annotated[int | None, Field(ge=1)] = None
    """optimizer steps; give this or `train_tokens`"""

    train_tokens: Annotated[int | None, Field(ge=1)] = None
    """tokens to train on, rounded up to whole steps"""

    # The optimizer: AdamW
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """peak learning rate"""

    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """learning rate of the last step"""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """steps of linear warm-up"""

    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """after the warm-up, down to min_lr"""

    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """on matrices; norms and biases have none"""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW's"""

    gradient_clipping: Annotated[float | None, Field(gt=0)] = 1.0
    """largest global norm; None: not clipped"""

    z_loss_coef: Annotated[float | None, Field(gt=0)] = None
    """of log(Z)^2 beside the loss (PaLM: 1e-4); None: off"""

    # The engine
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """DeepSpeed ZeRO: 1 shards optimizer, 2 gradients, 3 weights"""

    precision: Precision = "fp32"
    """bf16 keeps fp32 master weights"""

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """further DeepSpeed settings, passed through"""

    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    """of the initial weights and the data order; None: the spec's"""

    # What does not change the result
    micro_batch_size: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """sequences per worker and forward pass; None: the worker's whole share of a step"""

    data_cache: str | None = not_in_fingerprint(default=None)
    """local directory, shared by a machine's workers, for copies of remote token shards; they are kept when the stage
    ends. None: one of this user's below the system's temporary directory
    """

    data_cache_gib: Annotated[float | None, Field(gt=0)] = not_in_fingerprint(default=None)
    """GiB of copies at most, of all runs that share the directory; the shards used longest ago make room. None: as much
    as the shards have
    """

    activation_checkpointing: bool = not_in_fingerprint(default=False)
    """recompute activations: less memory, slower"""

    divergence: DivergenceSettings = not_in_fingerprint(default=DivergenceSettings())
    """what is done about steps that go wrong; may be changed to go on after a stop"""

    offload: Offload = not_in_fingerprint(default="none")
    """what lies in host memory: the optimizer's state (ZeRO 1 to 3), and the weights too (ZeRO-3)"""

    compile: bool = not_in_fingerprint(default=False)
    """torch.compile: a slow start, then faster steps on GPUs"""

    attention_kernel: AttentionKernel | None = not_in_fingerprint(default=None)
    """transformers' name for one; None: its choice, SDPA where the model has it"""

    peak_flops: Annotated[float | None, Field(gt=0)] = not_in_fingerprint(default=None)
    """FLOP/s of one worker's device, for the MFU; None: looked up, or measured at the start"""

    eval_every_steps: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """steps between held-out measurements; None: only at the end"""

    eval_tokens: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=1_000_000)
    """held-out tokens of a measurement on the way; None: all, as at the end"""

    trackers: tuple[Tracker, ...] = not_in_fingerprint(default=("tensorboard",))
    """where metrics go beside metrics.jsonl: tensorboard, wandb, mlflow (pip install raymill[tracking])"""

    checkpoint_every_steps: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=100)
    """steps between checkpoints; removed when the stage ends, but for those of keep_*"""

    async_checkpoints: bool = not_in_fingerprint(default=True)
    """write checkpoints behind training; costs each worker's machine a copy of its part in host memory"""

    keep_checkpoints: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=2)
    """newest checkpoints kept"""

    keep_every_steps: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """keep the checkpoints of every so many steps, also after the stage ended; None: no such"""

    keep_best: Annotated[int, Field(ge=0)] = not_in_fingerprint(default=0)
    """keep so many checkpoints of the lowest held-out loss, also after the stage ended"""

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """the Ray Train workers"""

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
