"""The settings of the mixture stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, Sections, StageConfig
from dataprep.config import Weight


class MixtureConfig(StageConfig):
    """How much of what a model is trained on: an index over token shards, in which documents may be repeated.

    Training documents are grouped by source, language and class of lengths. A group's share is in proportion to its
    tokens x the three weights x its language's share of all tokens to the power 1 / temperature - 1, as far as
    `max_epochs` allows; what that cuts off goes to the other groups.
    """

    kind: Literal["mixture"] = "mixture"

    sections: ClassVar[Sections] = {
        "Inputs": ("tokens", "tokenizer"),
        "Weights": ("sources", "languages", "lengths", "temperature"),
        "Amount": ("max_epochs", "total_tokens"),
    }

    tokens: Annotated[list[str], InputOf(("tokenize",)), Field(min_length=1)]
    """The tokenize stages, or directories with their artifacts, whose token shards are mixed."""

    tokenizer: Annotated[str, InputOf(("tokenizer",))]
    """The tokenizer stage, or a directory with a tokenizer, that all of the shards were made with."""

    sources: dict[str, Weight] = Field(default_factory=dict)
    """Pattern of input files to weight. A pattern is of names (`web-*`), with directories where names recur
    (`en/web-*`), or of all below a directory (`books/*`). The first that fits counts; what none fits has weight 1.
    Unlike in clean's inputs, a star before the end stays within a name, and `**` goes through directories. Files of one
    document each (HTML, text, code) go by the directory that clean's input covers.
    """

    languages: dict[str, Weight] = Field(default_factory=dict)
    """Language code to weight. Languages that are not named have weight 1."""

    lengths: dict[int, Weight] = Field(default_factory=dict)
    """Lower end of a class of lengths, in tokens (0, 2048, ...), to weight. Classes that are not named have weight 1.
    The tokenize stage's `length_classes` says which there are.
    """

    temperature: Annotated[float, Field(ge=1)] = 1.0
    """Evens out the languages: 1 leaves their shares as they come, and more makes them more alike."""

    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    """How often a document may come at most. What this cuts off goes to the groups that are not at it yet."""

    total_tokens: Annotated[int | None, Field(ge=1)] = None
    """Tokens of the mixture. `null` takes as many as the groups in it have."""
