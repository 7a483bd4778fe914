"""The special tokens of a tokenizer: control tokens that text never encodes to.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from pydantic import model_validator

from cluster.contracts.config import StrictModel


class SpecialTokens(StrictModel):
    """The control tokens, last in the vocabulary and in this order. Text never encodes to them."""

    end_of_text: str = "<|endoftext|>"
    """Stands between documents; the tokenizer's `bos_token`."""

    start_of_turn: str = "<|im_start|>"
    """Begins a turn of a conversation, before the name of the role."""

    end_of_turn: str = "<|im_end|>"
    """Ends a turn of a conversation; the tokenizer's `eos_token`, at which answers stop."""

    pad: str = "<|pad|>"
    """Fills short rows of a batch; the tokenizer's `pad_token`."""

    def in_order(self) -> list[str]:
        """All of them, as they are numbered."""
        return [self.end_of_text, self.start_of_turn, self.end_of_turn, self.pad]

    @model_validator(mode="after")
    def _distinct(self) -> SpecialTokens:
        if len(set(self.in_order())) < len(self.in_order()) or "" in self.in_order():
            raise ValueError("special tokens must differ from one another and not be empty")
        return self
