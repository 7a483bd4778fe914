"""Splits conversations into training and held-out ones by their first prompt.

The split is a function of the prompt and a seed, so that one more conversation moves no other one to the other side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.contracts.records import Conversation, is_heldout
from training.conversations.artifact import ReadConversation


@dataclass(frozen=True)
class ConversationSplit:
    """Both sides of a split by first prompt, and the rows that belong to neither."""

    train: list[ReadConversation]
    heldout: list[ReadConversation]
    leaking: list[ReadConversation]  # training rows left out because a later turn asks a held-out prompt


def first_prompt(conversation: Conversation) -> str:
    """What the user says first; the split goes by it."""
    return next(message["content"] for message in conversation["messages"] if message["role"] == "user")


def deduplicated(rows: Iterable[ReadConversation]) -> list[ReadConversation]:
    """The first of each set of conversations with the same messages."""
    first: dict[tuple[tuple[str, str], ...], ReadConversation] = {}
    for row in rows:
        first.setdefault(tuple((m["role"], m["content"]) for m in row.conversation["messages"]), row)
    return list(first.values())


def split_conversations(rows: Iterable[ReadConversation], *, fraction: float, seed: int) -> ConversationSplit:
    """Split by first prompt (`is_heldout`), so that no prompt is on both sides.

    A training conversation in which a later user message is a held-out first prompt is on neither side.
    """
    train: list[ReadConversation] = []
    heldout: list[ReadConversation] = []
    for row in rows:
        is_held = is_heldout(first_prompt(row.conversation), fraction=fraction, seed=seed)
        (heldout if is_held else train).append(row)
    heldout_prompts = {_normalised(first_prompt(row.conversation)) for row in heldout}
    split = ConversationSplit([], heldout, [])
    for row in train:
        prompts = (m["content"] for m in row.conversation["messages"] if m["role"] == "user")
        leaks = any(_normalised(prompt) in heldout_prompts for prompt in prompts)
        (split.leaking if leaks else split.train).append(row)
    return split


def _normalised(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
