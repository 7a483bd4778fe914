"""The settings of the mixture stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, StageConfig
from dataprep.config import Weight


class MixtureConfig(StageConfig):
    """How much of what a model is trained on: an index over token shards, in which documents may be repeated.

    Training documents are grouped by source, language and class of lengths. A group's share is in proportion to its
    tokens x the three weights x its language's share of all tokens to the power 1 / temperature - 1, as far as
    `max_epochs` allows; what that cuts off goes to the other groups.
    """

    kind: Literal["mixture"] = "mixture"
    tokens: Annotated[list[str], InputOf(("tokenize",)), Field(min_length=1)]

    tokenizer: Annotated[str, InputOf(("tokenizer",))]
    """the one that all of the shards were made with"""

    sources: dict[str, Weight] = Field(default_factory=dict)
    """Pattern of input files' names (`web-*`), with directories where names recur (`en/web-*`), or of all below a
    directory (`books/*`) -> weight; the first that fits; else 1. Unlike in clean's inputs, a star before the end stays
    within a name, and `**` goes through directories. Files of one document each (HTML, text, code) go by the directory
    that clean's input covers.
    """

    languages: dict[str, Weight] = Field(default_factory=dict)
    """language code -> weight; those not named have 1"""

    lengths: dict[int, Weight] = Field(default_factory=dict)
    """lower end of a class of lengths (0, 2048, ...) -> weight; those not named have 1"""

    temperature: Annotated[float, Field(ge=1)] = 1.0
    """between languages; 1: as they come, more: more alike"""

    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    """how often a document may come at most"""

    total_tokens: Annotated[int | None, Field(ge=1)] = None
    """of the mixture; None: as many as the groups in it have"""
