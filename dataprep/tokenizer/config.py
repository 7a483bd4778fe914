"""The settings of the tokenizer stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.contracts.config import InputOf, Resources, StageConfig, StrictModel, not_in_fingerprint
from dataprep.config import MAX_INT, Weight

NUM_BASE_TOKENS = 256  # a byte-level vocabulary holds every byte


class SpecialTokens(StrictModel):
    """The control tokens, last in the vocabulary and in this order. Text never encodes to them."""

    end_of_text: str = "<|endoftext|>"
    """between documents; the tokenizer's bos_token"""

    start_of_turn: str = "<|im_start|>"

    end_of_turn: str = "<|im_end|>"
    """the tokenizer's eos_token"""

    pad: str = "<|pad|>"

    def in_order(self) -> list[str]:
        """All of them, as they are numbered."""
        return [self.end_of_text, self.start_of_turn, self.end_of_turn, self.pad]

    @model_validator(mode="after")
    def _distinct(self) -> SpecialTokens:
        if len(set(self.in_order())) < len(self.in_order()) or "" in self.in_order():
            raise ValueError("special tokens must differ from one another and not be empty")
        return self


class TokenizerConfig(StageConfig):
    """A byte-level BPE tokenizer trained on what dedupe left."""

    kind: Literal["tokenizer"] = "tokenizer"
    documents: Annotated[str, InputOf(("dedupe",))]

    vocab_size: Annotated[int, Field(ge=NUM_BASE_TOKENS + 8, le=1 << 20)] = 32_768
    """tokens, special ones included"""

    min_frequency: Annotated[int, Field(ge=1, le=MAX_INT)] = 2
    """of a pair, to be merged"""

    sample_characters: Annotated[int, Field(ge=1)] = 200_000_000
    """trained on about so many, drawn by document"""

    languages: dict[str, Weight] = Field(default_factory=dict)
    """language code -> weight in the sample; those not named have 1"""

    temperature: Annotated[float, Field(ge=1)] = 1.0
    """between languages; 1: as they come, more: more alike"""

    special_tokens: SpecialTokens = SpecialTokens()
    """the control tokens"""

    worker: Resources = not_in_fingerprint(default_factory=Resources)
    """what the training process gets"""

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("trainer", 1, self.worker)]
