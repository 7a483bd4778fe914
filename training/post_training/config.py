"""The settings of the stages that TRL trains: sft, reward_model, dpo and kto.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from cluster.contracts.config import (
    InputOf,
    ReferenceFiles,
    Resources,
    Sections,
    StageConfig,
    StrictModel,
    WorkerGroup,
    not_in_fingerprint,
)
from cluster.contracts.model_needs import ModelNeeds
from training.config import CAUSAL_MODEL, Tracker, batch_conflicts
from training.post_training.trl_block import own_settings

DpoLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
_SMOOTHED_LOSSES = {"robust", "exo_pair", "aot", "aot_unpaired"}


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


ChatTemplateFile = Annotated[
    tuple[str, ...],
    ReferenceFiles(),
    Field(max_length=1),
    BeforeValidator(_as_list, json_schema_input_type=str | tuple[str, ...]),
]
"""One file, by its path; none where it is empty."""


class LoraSettings(StrictModel):
    """Low-rank adapters (PEFT) instead of all weights. An export is held against the trained model before it counts."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the adapters' matrices. More can learn more and take more memory."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of the adapters is dropped in training. 0 drops none."""

    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get adapters, as [q_proj, v_proj]. `all-linear` takes every linear layer but the output
    layer. Where embeddings get one that are tied to the output layer, the two are untied, and exported apart.
    """

    modules_to_save: list[str] = Field(default_factory=list)
    """Names of layers that are trained whole beside the adapters, as [embed_tokens, lm_head] or a norm's."""

    merge: bool = True
    """Whether the export is a whole model, with the adapters merged. `false` exports the adapters alone, in PEFT's
    form, with the place of their base.
    """


class DivergenceSettings(StrictModel):
    """What a run does about steps that go wrong. Every one is a line on the screen and in `metrics.jsonl`."""

    not_finite: Literal["stop", "skip"] = "stop"
    """What is done when the loss or the gradient's norm is nan or infinite: `stop` the stage, or `skip` the batch, so
    that the weights stay as they are, and go on with the next one.
    """

    max_events: Annotated[int, Field(ge=0)] = 10
    """Batches that a run may skip; one more stops it."""


class TrlConfig(StageConfig):
    """What SFT, reward model, DPO and KTO share: the optimiser, the batch, the engine and the workers."""

    trl_arguments: ClassVar[str]  # the name of TRL's class that judges the `trl` block

    stage_version: ClassVar[int] = 2  # 2: the last global batch is filled up, and not left out

    sections: ClassVar[Sections] = {
        "Amount": ("epochs", "global_batch_size", "max_length"),
        "Optimizer (AdamW)": ("lr", "lr_schedule", "warmup_fraction", "weight_decay", "adam_beta2", "max_grad_norm"),
        "Chat": ("chat_template", "stop_token", "pad_token"),
        "Engine": ("lora", "export_dtype", "zero_stage", "precision", "micro_batch_size", "gradient_checkpointing"),
        "Passed through": ("trl", "deepspeed"),
        "Measuring on the way": ("eval_every_steps", "keep_best", "early_stopping_patience"),
        "Execution": ("divergence", "trackers", "checkpoint_every_steps", "workers"),
    }

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training rows, fractions allowed. The last global batch is filled up with the rows that
    would come next.
    """

    lr: Annotated[float, Field(gt=0)] = 2e-5
    """Peak learning rate of AdamW."""

    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 after the warm-up; `constant` does not fall."""

    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of all steps over which the learning rate rises to its peak."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay. 0 turns it off."""

    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """AdamW's decay rate of the average of squared gradients."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of all gradients together; larger ones are scaled down to it."""

    global_batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows (SFT) or pairs of one optimizer step, over all workers."""

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further settings of DeepSpeed's JSON config, passed through. What contradicts a setting of this stage is refused.
    """

    trl: dict[str, Any] = Field(default_factory=dict)
    """Further settings of TRL's trainer and of transformers' `TrainingArguments`, by their names, as
    {neftune_noise_alpha: 5}. What the stage has a setting for, or decides itself, is refused.
    """

    micro_batch_size: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """Rows of one worker's forward pass. Smaller ones take less memory and more passes. `null` takes the worker's whole
    share of the global batch.
    """

    max_length: Annotated[int, Field(ge=8)] = 512
    """Longest row in tokens, prompt and answer together. SFT cuts longer conversations; longer pairs are left out."""

    chat_template: ChatTemplateFile = ()
    """A file with a chat template (Jinja) for a model that has none, or instead of its own; the exported model has it
    then. Empty takes the model's.
    """

    stop_token: str | None = None
    """The token that ends an answer, which must be one of the tokenizer's. `null` takes the one that the chat template
    writes behind an answer; a template that writes none needs this setting.
    """

    pad_token: str | None = None
    """The token that fills short rows of a batch, which must be one of the tokenizer's. `null` takes the tokenizer's. A
    reward model whose tokenizer pads with the token that ends answers takes another control token by itself.
    """

    lora: LoraSettings | None = None
    """Trains low-rank adapters instead of all weights, for far less memory. `null` trains all weights."""

    export_dtype: Literal["auto", "base", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the exported weights. `base` is that of the model that training started from. `auto` takes it
    too, but fp32 where rounding to 16 bits would take back more than a tenth of what was learned, as it often does
    after low-rank adapters or few steps.
    """

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed's ZeRO stage, what is sharded over the workers: 1 the optimizer's state, 2 gradients too, 3 weights
    too; 0 nothing. Higher stages save memory and communicate more.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of forward and backward passes. `bf16` needs a GPU: transformers' trainers refuse it on CPUs."""

    gradient_checkpointing: bool = not_in_fingerprint(default=False)
    """Whether activations are recomputed in the backward pass, which takes less memory and is slower."""

    eval_every_steps: Annotated[int | None, Field(ge=1)] = None
    """Steps between measurements of the loss on the held-out rows, which `metrics.jsonl` shows as heldout_loss. `null`
    measures at the end only.
    """

    keep_best: bool = False
    """Whether the model of the lowest held-out loss is exported, and not the last one. It needs `eval_every_steps`."""

    early_stopping_patience: Annotated[int | None, Field(ge=1)] = None
    """Training ends after so many measurements in a row without a lower held-out loss. It needs `eval_every_steps`.
    `null` trains to the end.
    """

    trackers: tuple[Tracker, ...] = not_in_fingerprint(default=("tensorboard",))
    """Where metrics go beside metrics.jsonl. `wandb` and `mlflow` need `pip install raymill[tracking]`."""

    divergence: DivergenceSettings = not_in_fingerprint(default=DivergenceSettings())
    """What is done about a loss or gradient that is nan or infinite. It may be changed to go on after a stop."""

    checkpoint_every_steps: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=50)
    """Optimizer steps between checkpoints. What was trained since the last one is lost when a worker dies. Checkpoints
    are removed when the stage ends.
    """

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """The workers that train together."""

    @property
    def rank_micro_batch_size(self) -> int:
        """Rows of one worker's forward pass."""
        if self.micro_batch_size is not None:
            return self.micro_batch_size
        return self.global_batch_size // self.workers.num_workers

    def chat_settings(self) -> dict[str, Any]:
        """What `training.tokenizers.load_encoder` takes of these settings."""
        return {name: getattr(self, name) for name in ("chat_template", "stop_token", "pad_token")}

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]

    def model_needs(self, field: str) -> ModelNeeds:
        lora = self.lora
        targets = tuple(lora.target_modules) if lora is not None and lora.target_modules != "all-linear" else ()
        return ModelNeeds(
            chat_template=True,
            chat_template_file=next(iter(self.chat_template), None),
            stop_token=self.stop_token,
            padding_token=True,
            pad_token=self.pad_token,
            max_length=self.max_length,
            lora_targets=targets,
            lora_whole=tuple(lora.modules_to_save) if lora is not None else (),
            new_head=self.kind == "reward_model",
        )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.precision == "bf16" and self.workers.gpus == 0:
            yield "precision", "bf16 needs workers.gpus: transformers' trainers refuse it on CPUs; take fp32"
        for name in ("keep_best", "early_stopping_patience"):
            if getattr(self, name) and self.eval_every_steps is None:
                yield name, "needs eval_every_steps, the steps between measurements"
        yield from own_settings(self.trl, type(self).model_fields)
        if "optimizer" in self.deepspeed:
            yield "deepspeed.optimizer", "is the trainer's; set lr, weight_decay and adam_beta2, or trl.optim"
        if self.lora is not None and "lm_head" in self.lora.target_modules:
            yield (
                "lora.target_modules",
                "holds the output layer, whose adapter TRL's losses pass by; put lm_head into modules_to_save",
            )
        yield from batch_conflicts(self.global_batch_size, self.micro_batch_size, self.workers)


class SftConfig(TrlConfig):
    """Supervised fine-tuning on conversations, with the loss on the answers only."""

    kind: Literal["sft"] = "sft"

    trl_arguments: ClassVar[str] = "SFTConfig"

    sections: ClassVar[Sections] = {
        "Inputs": ("model", "conversations"),
        **TrlConfig.sections,
    }

    model: Annotated[str, CAUSAL_MODEL]
    """The model to start from: any stage that makes a causal model, or a directory with a Hugging Face model."""

    conversations: Annotated[str, InputOf(("conversations",))]
    """The conversations stage, or a directory with its artifact. The answers of its training side are learned."""


class RewardModelConfig(TrlConfig):
    """A reward model (one score per conversation) from pairs, rankings or scores."""

    kind: Literal["reward_model"] = "reward_model"

    trl_arguments: ClassVar[str] = "RewardConfig"

    sections: ClassVar[Sections] = {
        "Inputs": ("model", "preferences"),
        "Loss": ("learn", "compare", "margin_scale", "center_rewards_coefficient"),
        "Rewards": ("normalize_rewards",),
        **TrlConfig.sections,
    }

    model: Annotated[str, CAUSAL_MODEL]
    """The causal model whose body is taken: any stage that makes one, or a directory with a Hugging Face model."""

    preferences: Annotated[str, InputOf(("preferences",))]
    """The preferences stage, or a directory with its artifact, whose rows are learned."""

    learn: Literal["comparisons", "scores"] = "comparisons"
    """What is learned. `comparisons`: that the better of two answers has the higher reward (Bradley-Terry). All pairs
    of a ranking are in one step and count as one pair together (Ouyang et al., 2022). `scores`: the answers' scores
    themselves, by the squared error, with mean 0 and standard deviation 1 over the training answers.
    """

    compare: Literal["last_token", "every_token"] = "last_token"
    """Where the two answers' scores are compared. `last_token` is TRL's own loss. `every_token` compares after every
    token from the first that differs (as DeepSpeed-Chat does) and teaches far more per pair; small models need it.
    """

    margin_scale: Annotated[float, Field(ge=0)] = 1.0
    """What a pair's margin is multiplied by; the better answer's reward must be that much higher. Pairs of scores have
    margins of up to 1. 0 leaves margins out.
    """

    center_rewards_coefficient: Annotated[float | None, Field(gt=0)] = None
    """Weight of a loss that pulls the mean score of a pair to 0. `null` turns it off."""

    normalize_rewards: bool = False
    """Whether the model's rewards are given with mean 0 and standard deviation 1 over the training answers, wherever
    Raymill asks the model (PPO, evaluation, /v1/score). Both numbers are written beside the model in any case.
    """

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        if self.learn == "scores" and self.compare == "every_token":
            yield "compare", "every_token compares answers, and learn: scores learns from one at a time; leave it out"
        if self.learn == "scores" and self.center_rewards_coefficient is not None:
            yield "center_rewards_coefficient", "has no effect with learn: scores, whose targets have mean 0"


class DpoConfig(TrlConfig):
    """Direct preference optimisation (Rafailov et al., 2023) of a model against itself as reference."""

    kind: Literal["dpo"] = "dpo"

    trl_arguments: ClassVar[str] = "DPOConfig"

    sections: ClassVar[Sections] = {
        "Inputs": ("model", "preferences"),
        "Loss": ("beta", "loss_type", "loss_weights", "label_smoothing", "sft_loss_weight"),
        **TrlConfig.sections,
    }

    model: Annotated[str, CAUSAL_MODEL]
    """The model to start from, which is the reference too: any stage that makes a causal model, or a directory with a
    Hugging Face model.
    """

    preferences: Annotated[str, InputOf(("preferences",))]
    """The preferences stage, or a directory with its artifact, whose pairs are learned."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the policy is held to the reference; smaller lets it move further."""

    loss_type: DpoLoss | Annotated[list[DpoLoss], Field(min_length=1)] = "sigmoid"
    """TRL's name of the loss, or a list of several that are added up. `sigmoid` is DPO's own (Rafailov et al., 2023);
    `ipo`, `hinge`, `robust`, `exo_pair`, `apo_zero` and the others are described in TRL's documentation.
    """

    loss_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """Weights of several losses, in the order of `loss_type`. `null` weighs each 1."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs that is taken to be labelled the wrong way round, for the losses `robust`, `exo_pair`, `aot` and
    `aot_unpaired`. 0 trusts all labels.
    """

    sft_loss_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen answers' own loss beside DPO's, which keeps them likely. 0 turns it off."""

    def losses(self) -> dict[str, float]:
        """TRL's losses by name, with their weights."""
        names = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
        losses: dict[str, float] = dict(zip(names, self.loss_weights or [1.0] * len(names), strict=True))
        return {**losses, "sft": self.sft_loss_weight} if self.sft_loss_weight else losses

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        names = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
        if len(set(names)) < len(names):
            yield "loss_type", "names a loss twice"
        if self.loss_weights is not None and len(self.loss_weights) != len(names):
            yield "loss_weights", f"has {len(self.loss_weights)} weights for {len(names)} losses (loss_type)"
        if self.sft_loss_weight and "sft" in names:
            yield "sft_loss_weight", "is given, and loss_type names sft as well; give its weight in loss_weights"
        if self.label_smoothing and not set(names) & _SMOOTHED_LOSSES:
            yield (
                "label_smoothing",
                f"is {self.label_smoothing}, and TRL's {', '.join(names)} does not use it; take loss_type: robust",
            )
        if "exo_pair" in names and not self.label_smoothing:
            yield "label_smoothing", "must be above 0 for exo_pair; its authors take 0.001"


class KtoConfig(TrlConfig):
    """Kahneman-Tversky optimisation (Ethayarajh et al., 2024) on answers that are wanted or not, without pairs."""

    kind: Literal["kto"] = "kto"

    trl_arguments: ClassVar[str] = "KTOConfig"

    sections: ClassVar[Sections] = {
        "Inputs": ("model", "preferences"),
        "Loss": ("beta", "loss_type", "desirable_weight", "undesirable_weight"),
        **TrlConfig.sections,
    }

    model: Annotated[str, CAUSAL_MODEL]
    """The model to start from, which is the reference too: any stage that makes a causal model, or a directory."""

    preferences: Annotated[str, InputOf(("preferences",))]
    """The preferences stage, or a directory with its artifact. Its labels are learned, and those that its pairs and
    rankings give: the better answer is wanted, the worse one is not.
    """

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the policy is held to the reference; smaller lets it move further."""

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """TRL's name of the loss. `apo_zero_unpaired` estimates no distance to the reference, and is a third faster."""

    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the wanted answers' loss. Raise it where there are fewer of them than of the others."""

    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the unwanted answers' loss."""

    micro_batch_size: Annotated[int | None, Field(ge=1)] = None
    """Answers of one worker's forward pass. The distance to the reference is estimated on each, so it changes results;
    8 and more are advised. `null` takes the worker's whole share of the global batch.
    """

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        if self.loss_type == "kto" and self.rank_micro_batch_size < 2:
            yield "micro_batch_size", "must be 2 at least: the distance to the reference needs two answers in a pass"
