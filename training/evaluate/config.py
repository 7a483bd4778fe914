"""The settings of the evaluate stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cluster.contracts.config import (
    InputOf,
    Resources,
    Sections,
    StageConfig,
    WorkerGroup,
    not_in_fingerprint,
)
from cluster.contracts.model_needs import ModelNeeds
from training.config import CAUSAL_MODEL, SCORING_MODEL, ModelName, ReplicaGroup
from training.evaluate.task_config import Task


class EvaluateConfig(StageConfig):
    """Models side by side: on held-out tokens and answers, on the same prompts, on pairs and on tasks.

    Every figure has an interval, and every model is held against the first one, item by item. Models may be of
    different tokenizers. Their losses per token are then not compared; bits per byte are.
    """

    # 2: any number of named models, answered by the serving engine; intervals; tasks.
    stage_version: ClassVar[int] = 2

    kind: Literal["evaluate"] = "evaluate"

    sections: ClassVar[Sections] = {
        "Models": ("models", "baseline", "dtype", "reward_model", "judge"),
        "What is measured on": ("tokens", "conversations", "preferences", "tasks"),
        "Losses and preferences": ("max_tokens", "sequence_length", "max_length"),
        "Sampled answers": ("num_prompts", "max_new_tokens", "temperature", "num_samples", "batch_size"),
        "Intervals": ("confidence",),
        "Execution": ("workers", "server"),
    }

    models: Annotated[dict[ModelName, str], CAUSAL_MODEL, Field(min_length=1)]
    """The models: a name of your choice to any stage that makes a causal model, or to a directory with a Hugging Face
    model.
    """

    baseline: ModelName | None = None
    """The model that each other one is held against. `null` takes the first of `models`."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the models' weights while they answer. `auto` keeps the format in which they are stored."""

    reward_model: Annotated[str | None, SCORING_MODEL] = None
    """The reward_model stage, or a directory with a reward model, that scores the sampled answers; from its scores also
    follows how often each model wins against the baseline. `null` measures no rewards.
    """

    judge: Annotated[str | None, CAUSAL_MODEL] = None
    """A model that says which of two sampled answers is better, the baseline's or another model's, by the likelier of
    the letters A and B. Each pair is shown in both orders, and counts as a tie where the order decides.
    `null` asks no judge.
    """

    tokens: Annotated[str | None, InputOf(("tokenize", "mixture"))] = None
    """The tokenize or mixture stage, or a directory with such an artifact, on whose held-out shards the loss is
    measured. A model of another tokenizer than theirs reads the same text in its own tokens. `null` measures none.
    """

    conversations: Annotated[str | None, InputOf(("conversations",))] = None
    """The conversations stage, or a directory with its artifact. Those held out are measured on, and their prompts are
    answered. `null` leaves both out.
    """

    preferences: Annotated[str | None, InputOf(("preferences",))] = None
    """The preferences stage, or a directory with its artifact, whose held-out pairs give the preference accuracy.
    `null` measures none.
    """

    tasks: dict[ModelName, Task] = Field(default_factory=dict)
    """Tasks: a name of your choice to where its items are and how they are judged."""

    max_tokens: Annotated[int, Field(ge=1)] = 50_000
    """Held-out tokens that the loss of each model is measured on."""

    sequence_length: Annotated[int, Field(ge=2)] = 256
    """Tokens of a window of the held-out tokens."""

    max_length: Annotated[int, Field(ge=8)] = 512
    """Longest conversation, pair or choice, in tokens. Longer conversations are cut, and what else is longer is left
    out.
    """

    num_prompts: Annotated[int, Field(ge=2)] = 128
    """Held-out prompts that each model answers by sampling."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 48
    """Longest sampled answer, in tokens."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the sampled answers."""

    num_samples: Annotated[int, Field(ge=0)] = 6
    """Prompts whose answers the report shows, greedy and sampled."""

    batch_size: Annotated[int, Field(ge=1)] = not_in_fingerprint(default=32)
    """Rows of a forward pass. More take more memory; figures change in their last bits."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """How often an interval holds the true value."""

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """The workers that measure log-probabilities. Each takes whole models in turn, so more workers than models are
    idle.
    """

    server: ReplicaGroup = not_in_fingerprint(default_factory=ReplicaGroup)
    """The replicas that answer prompts. Each holds one model at a time; one is enough for most evaluations."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.baseline is not None and self.baseline not in self.models:
            yield "baseline", f"is none of models: {', '.join(self.models)}"
        if not (self.tokens or self.conversations or self.preferences or self.tasks):
            yield "conversations", "is not set, and neither is tokens, preferences or tasks: nothing would be measured"
        for name in ("reward_model", "judge"):
            if getattr(self, name) is not None and self.conversations is None:
                yield name, "judges answers to held-out prompts, so it needs conversations"

    @model_validator(mode="before")
    @classmethod
    def _with_baseline(cls, values: Any) -> Any:
        """The baseline by its name, since the order of `models` is not in the fingerprint."""
        if isinstance(values, dict) and isinstance(values.get("models"), dict) and values["models"]:
            return {**values, "baseline": values.get("baseline") or next(iter(values["models"]))}
        return values

    @property
    def compared_with(self) -> str:
        """The model that the others are held against."""
        return self.baseline if self.baseline is not None else next(iter(self.models))

    @property
    def asks_for_answers(self) -> bool:
        """Whether any model has to answer something."""
        return self.conversations is not None or any(task.is_answered for task in self.tasks.values())

    def model_needs(self, field: str) -> ModelNeeds:
        is_reward_model = field == "reward_model"
        answers = field == "models" and self.asks_for_answers
        return ModelNeeds(chat_template=not is_reward_model, padding_token=True, answers=answers)

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [
            ("workers", self.workers.num_workers, self.workers),
            ("server", self.server.num_replicas, self.server),
        ]
