"""The settings of the tokenize stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cluster.contracts.config import InputOf, Sections
from dataprep.config import MAX_INT, DataConfig


class TokenizeConfig(DataConfig):
    """What dedupe left, as token shards."""

    stage_version: ClassVar[int] = 3  # 3: sources are told by their URI

    kind: Literal["tokenize"] = "tokenize"

    sections: ClassVar[Sections] = {
        "Inputs": ("documents", "tokenizer"),
        "Tokens": ("end_of_text", "length_classes"),
        "Held-out documents": ("heldout_fraction", "split_seed"),
        "Execution": ("workers", "max_workers"),
    }

    documents: Annotated[str, InputOf(("dedupe",))]
    """The dedupe stage, or a directory with its artifact, whose remaining documents become tokens."""

    tokenizer: Annotated[str, InputOf(("tokenizer",))]
    """The tokenizer stage, or a directory with a tokenizer, that encodes them."""

    end_of_text: str = "<|endoftext|>"
    """The tokenizer's token that is put behind each document."""

    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the documents that is kept out of training, to measure on. A document is drawn by its content, so copies
    fall on the same side.
    """

    split_seed: Annotated[int, Field(ge=0, le=MAX_INT)] = 0
    """Chooses which documents are held out."""

    length_classes: list[Annotated[int, Field(ge=1, le=MAX_INT)]] = Field(default=[2048, 8192, 32_768], max_length=16)
    """Lower ends of the classes of lengths, in tokens of a document, besides 0. A mixture can weigh the classes."""

    @model_validator(mode="after")
    def _ascending(self) -> TokenizeConfig:
        if self.length_classes != sorted(set(self.length_classes)):
            raise ValueError(f"length_classes must ascend; got {self.length_classes}")
        return self
