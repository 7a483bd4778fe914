"""The settings of the evaluate stage.

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
    WorkerGroup,
    not_in_fingerprint,
)
from training.config import CAUSAL_MODELS, Fraction


class EvaluateConfig(StageConfig):
    """Models side by side on the same held-out tokens, answers, prompts and pairs.

    All models must be of one tokenizer.
    """

    kind: Literal["evaluate"] = "evaluate"

    tokens: Annotated[str, InputOf(("tokenize", "mixture"))]
    """its held-out shards"""

    conversations: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """the files SFT was given"""

    base: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    sft: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    dpo: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None
    ppo: Annotated[str | None, InputOf(CAUSAL_MODELS)] = None

    reward_model: Annotated[str | None, InputOf(("reward_model",))] = None
    """None: no rewards"""

    preferences: Annotated[str | None, InputOf(("preferences",))] = None
    """None: no preference accuracy"""

    heldout_fraction: Fraction = 0.2
    """as in the other stages"""

    split_seed: Annotated[int, Field(ge=0)] = 0
    """as in the other stages"""

    max_tokens: Annotated[int, Field(ge=1)] = 50_000
    """of the held-out shards, per model"""

    sequence_length: Annotated[int, Field(ge=2)] = 256
    """tokens of a window of them"""

    max_length: Annotated[int, Field(ge=8)] = 512
    """tokens of a conversation"""

    num_prompts: Annotated[int, Field(ge=2)] = 128
    """held-out prompts answered by sampling"""

    max_new_tokens: Annotated[int, Field(ge=1)] = 48
    """of an answer"""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """of the sampled answers"""

    num_samples: Annotated[int, Field(ge=0)] = 6
    """prompts whose answers are shown"""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """rows per forward pass; sampled answers depend on it"""

    workers: WorkerGroup = not_in_fingerprint(default_factory=WorkerGroup)
    """each takes whole models in turn; more workers than models are idle"""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not self.models():
            yield "base", "name at least one model to evaluate: base, sft, dpo or ppo"

    def models(self) -> dict[str, str]:
        """Role -> the stage it comes from, of the models given."""
        given = {"base": self.base, "sft": self.sft, "dpo": self.dpo, "ppo": self.ppo}
        return {role: stage for role, stage in given.items() if stage is not None}

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("workers", self.workers.num_workers, self.workers)]
