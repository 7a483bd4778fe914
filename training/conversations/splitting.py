"""Splits conversations into training and held-out ones by their first prompt.

The split is a function of the prompt and a seed, so every stage that splits by the same settings holds out the same
prompts, whatever else it reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.contracts.records import Conversation, is_heldout


@dataclass(frozen=True)
class ConversationSplit:
    """Both sides of a split by first prompt, and how many rows belonged to neither."""

    train: list[Conversation]
    heldout: list[Conversation]
    num_leaking: int  # training rows left out because a later turn asks a held-out prompt


def first_prompt(conversation: Conversation) -> str:
    """What the user says first; the split goes by it."""
    return next(message["content"] for message in conversation["messages"] if message["role"] == "user")


def deduplicated(conversations: Iterable[Conversation]) -> list[Conversation]:
    """The first of each set of conversations with the same messages."""
    first: dict[tuple[tuple[str, str], ...], Conversation] = {}
    for conversation in conversations:
        first.setdefault(tuple((m["role"], m["content"]) for m in conversation["messages"]), conversation)
    return list(first.values())


def split_conversations(conversations: Iterable[Conversation], *, fraction: float, seed: int) -> ConversationSplit:
    """Split by first prompt (`is_heldout`), so that every stage agrees and no prompt is on both sides.

    A training conversation in which a later user message is a held-out first prompt is on neither side.
    """
    train: list[Conversation] = []
    heldout: list[Conversation] = []
    for conversation in conversations:
        is_held = is_heldout(first_prompt(conversation), fraction=fraction, seed=seed)
        (heldout if is_held else train).append(conversation)
    heldout_prompts = {_normalised(first_prompt(conversation)) for conversation in heldout}
    clean = [
        conversation
        for conversation in train
        if not any(
            message["role"] == "user" and _normalised(message["content"]) in heldout_prompts
            for message in conversation["messages"]
        )
    ]
    return ConversationSplit(clean, heldout, len(train) - len(clean))


def _normalised(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
