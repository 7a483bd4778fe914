"""The settings of the evaluate stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import (
    InputOf,
    Resources,
    Sections,
    StageConfig,
    WorkerGroup,
    not_in_fingerprint,
)
from training.config import CAUSAL_MODEL, SCORING_MODEL


class EvaluateConfig(StageConfig):
    """Models side by side on the same held-out tokens, answers, prompts and pairs.

    All models must be of one tokenizer.
    """

    kind: Literal["evaluate"] = "evaluate"

    sections: ClassVar[Sections] = {
        "Models": ("base", "sft", "dpo", "ppo", "reward_model"),
        "What is measured on": ("tokens", "conversations", "preferences"),
        "Losses and preferences": ("max_tokens", "sequence_length", "max_length"),
        "Sampled answers": ("num_prompts", "max_new_tokens", "temperature", "num_samples", "batch_size"),
        "Execution": ("workers",),
    }

    tokens: Annotated[str, InputOf(("tokenize", "mixture"))]
    """The tokenize or mixture stage, or a directory with such an artifact, on whose held-out shards the loss is
    measured.
    """

    conversations: Annotated[str, InputOf(("conversations",))]
    """The conversations stage, or a directory with its artifact. Those held out are measured on, and their prompts are
    answered.
    """

    base: Annotated[str | None, CAUSAL_MODEL] = None
    """The base model: any stage that makes a causal model, or a directory with a Hugging Face model. `null` leaves it
    out; one of the four models is needed.
    """

    sft: Annotated[str | None, CAUSAL_MODEL] = None
    """The fine-tuned model, given likewise. `null` leaves it out."""

    dpo: Annotated[str | None, CAUSAL_MODEL] = None
    """The model aligned by DPO, given likewise. `null` leaves it out."""

    ppo: Annotated[str | None, CAUSAL_MODEL] = None
    """The model aligned by PPO, given likewise. `null` leaves it out."""

    reward_model: Annotated[str | None, SCORING_MODEL] = None
    """The reward_model stage, or a directory with a reward model, that scores the sampled answers. `null` measures no
    rewards.
    """

    preferences: Annotated[str | None, InputOf(("preferences",))] = None
    """The preferences stage, or a directory with its artifact, whose held-out pairs give the preference accuracy.
    `null` measures none.
    """

    max_tokens: Annotated[int, Field(ge=1)] = 50_000
    """Held-out tokens that the loss of each model is measured on."""

    sequence_length: Annotated[int, Field(ge=2)] = 256
    """Tokens of a window of the held-out tokens."""

    max_length: Annotated[int, Field(ge=8)] = 512
    """Longest conversation or pair, in tokens. Longer conversations are cut, and longer pairs are left out."""

    num_prompts: Annotated[int, Field(ge=2)] = 128
    """Held-out prompts that each model answers by sampling."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 48
    """Longest answer, in tokens."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the sampled answers."""

    num_samples: Annotated[int, Field(ge=0)] = 6
    """Prompts whose answers the report shows, greedy and sampled."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of a forward pass. More take more memory; sampled answers depend on it, so it counts in the fingerprint."""

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """The workers. Each takes whole models in turn, so more workers than models are idle."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.models():
            yield "base", "name at least one model to evaluate: base, sft, dpo or ppo"

    def models(self) -> dict[str, str]:
        """Role -> the stage it comes from, of the models given."""
        given = {"base": self.base, "sft": self.sft, "dpo": self.dpo, "ppo": self.ppo}
        return {role: stage for role, stage in given.items() if stage is not None}

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]
