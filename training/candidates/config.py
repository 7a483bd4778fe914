"""The settings of the candidates stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, Resources, Sections, StageConfig, not_in_fingerprint
from cluster.contracts.model_needs import ModelNeeds
from training.config import CAUSAL_MODEL, ModelName, ReplicaGroup


class CandidatesConfig(StageConfig):
    """Several answers to each prompt, sampled from one or several models by the serving engine.

    An answer depends on its model, its prompt, its number and the spec's seed, and on nothing else.
    """

    kind: Literal["candidates"] = "candidates"

    sections: ClassVar[Sections] = {
        "Models": ("models", "dtype"),
        "Prompts": ("conversations", "split", "turns", "num_prompts", "max_prompt_tokens"),
        "Sampling": ("answers_per_prompt", "max_new_tokens", "temperature", "top_p", "top_k"),
        "Execution": ("prompts_per_part", "server"),
    }

    models: Annotated[dict[ModelName, str], CAUSAL_MODEL, Field(min_length=1)]
    """The models that answer: a name of your choice to any stage that makes a causal model, or to a directory with a
    Hugging Face model. They answer one after another.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the models' weights while they answer. `auto` keeps the format in which they are stored."""

    conversations: Annotated[str, InputOf(("conversations",))]
    """The conversations stage, or a directory with its artifact, whose prompts are answered."""

    split: Literal["train", "heldout", "both"] = "train"
    """Which side of the conversations is answered. Answers keep their side, so preferences made of them do too."""

    turns: Literal["first", "last", "every"] = "first"
    """Which answers of a conversation are asked for anew, each with all that was said before it: the first, the last,
    or every one.
    """

    num_prompts: Annotated[int | None, Field(ge=1)] = None
    """Prompts that are answered, taken at even distances from those of each side. `null` takes all."""

    max_prompt_tokens: Annotated[int | None, Field(ge=1)] = None
    """Longest prompt, in tokens. Longer ones are quarantined, and so are those that leave no room for an answer of
    `max_new_tokens` within the model's positions. `null` sets no limit of its own.
    """

    answers_per_prompt: Annotated[int, Field(ge=1)] = 4
    """Answers of each model to each prompt."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer, in tokens. One that is cut here says so: its `finish_reason` is `length`."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Temperature of sampling. At 0 the likeliest token is taken, so all answers to a prompt are the same one."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest share of probability to sample from."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """Number of likeliest tokens to sample from. 0 sets no limit."""

    prompts_per_part: Annotated[int, Field(ge=1)] = 64
    """Prompts whose answers are asked for in one call and committed together. A run that is killed loses the parts
    under way. Answers of one call are made in one batch, which bears on the last bits of their log-probabilities.
    """

    server: ReplicaGroup = not_in_fingerprint(default_factory=ReplicaGroup)
    """The replicas that answer. Each holds one model at a time and works on one part at a time."""

    def model_needs(self, field: str) -> ModelNeeds:
        return ModelNeeds(chat_template=True, answers=True)

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("server", self.server.num_replicas, self.server)]
