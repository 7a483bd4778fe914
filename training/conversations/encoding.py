"""Many conversations as token ids for training, cut to a length; what can't be used of them is counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.contracts.chat.encoder import ChatEncoder, EncodedConversation
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.records import Conversation


@dataclass(frozen=True)
class EncodedRows:
    """Conversations that hold something to learn, and how many of the others there are."""

    rows: list[EncodedConversation]
    refused: Mapping[str, int]  # reason -> conversations that the template refuses or writes otherwise than they are
    num_without_answer: int  # those that no token to learn is left of, by their length or since all weights are 0
    num_truncated: int  # of `rows`, those that lost tokens to learn to `max_length`: mostly the end of their answer

    @property
    def num_refused(self) -> int:
        """All that were refused, whatever the reason."""
        return sum(self.refused.values())


def encode_rows(encoder: ChatEncoder, conversations: Sequence[Conversation], *, max_length: int) -> EncodedRows:
    """Encode conversations, each cut to its first `max_length` tokens.

    Raises `InputError` for a chat template that is of no use for training.
    """
    refused: Counter[str] = Counter()
    rows = []
    num_without_answer = num_truncated = 0
    for whole in encoder.encode_batch((c["messages"], c.get("tools")) for c in conversations):
        if isinstance(whole, ChatRefused):
            refused[whole.reason] += 1
            continue
        row = whole.truncated(max_length)
        num_learnt = sum(row.assistant_mask_T)
        if not num_learnt:
            num_without_answer += 1
            continue
        num_truncated += num_learnt < sum(whole.assistant_mask_T)
        rows.append(row)
    return EncodedRows(rows, refused, num_without_answer, num_truncated)
