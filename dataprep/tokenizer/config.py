"""The settings of the tokenizer stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, Resources, Sections, StageConfig, not_in_fingerprint
from dataprep.config import MAX_INT, Weight
from dataprep.tokenizer.special_tokens import SpecialTokens

NUM_BASE_TOKENS = 256  # a byte-level vocabulary holds every byte


class TokenizerConfig(StageConfig):
    """A byte-level BPE tokenizer trained on what dedupe left."""

    kind: Literal["tokenizer"] = "tokenizer"

    sections: ClassVar[Sections] = {
        "Inputs": ("documents",),
        "Vocabulary": ("vocab_size", "min_frequency", "special_tokens"),
        "Sample to train on": ("sample_characters", "languages", "temperature"),
        "Execution": ("worker",),
    }

    documents: Annotated[str, InputOf(("dedupe",))]
    """The dedupe stage, or a directory with its artifact, whose remaining documents the tokenizer is trained on."""

    vocab_size: Annotated[int, Field(ge=NUM_BASE_TOKENS + 8, le=1 << 20)] = 32_768
    """Tokens of the vocabulary, special ones included. More shorten texts and enlarge the model's embeddings."""

    min_frequency: Annotated[int, Field(ge=1, le=MAX_INT)] = 2
    """Fewest occurrences of a pair of tokens that is merged. Where pairs run out, the vocabulary is smaller."""

    sample_characters: Annotated[int, Field(ge=1)] = 200_000_000
    """Characters to train on, about; documents are drawn at random. More take more memory and time."""

    languages: dict[str, Weight] = Field(default_factory=dict)
    """Language code to weight in the sample. Languages that are not named have weight 1."""

    temperature: Annotated[float, Field(ge=1)] = 1.0
    """Evens out the languages in the sample: 1 leaves their shares as they come, and more makes them more alike."""

    special_tokens: SpecialTokens = SpecialTokens()
    """The control tokens. Text never encodes to them."""

    worker: Resources = not_in_fingerprint(default_factory=Resources)
    """What the training process gets."""

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("trainer", 1, self.worker)]
