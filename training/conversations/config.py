"""The settings of the conversations stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cluster.contracts.config import InputFiles, Sections, StageConfig
from training.config import Fraction


class ConversationsConfig(StageConfig):
    """Conversations from files: read once, without duplicates, split by first prompt for all stages that follow."""

    uses_seed: ClassVar[bool] = False  # the split goes by `split_seed` and the prompt itself

    kind: Literal["conversations"] = "conversations"

    sections: ClassVar[Sections] = {
        "Inputs": ("inputs",),
        "Rows that are kept": ("deduplicate",),
        "Split": ("heldout_fraction", "split_seed"),
    }

    inputs: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """JSON Lines of conversations, a {messages: [...]} a row; plain, .gz or .zst."""

    deduplicate: bool = True
    """Whether repeated conversations count once."""

    heldout_fraction: Fraction = 0.2
    """Share of first prompts, with all that follows on them, that is kept out of training. Every stage that reads this
    one's conversations trains on the others and measures on these.
    """

    split_seed: Annotated[int, Field(ge=0)] = 0
    """Chooses which first prompts are held out."""
