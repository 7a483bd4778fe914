"""The prompts of conversations: what was said before an answer of the assistant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import orjson

from cluster.contracts.hashing import blake2b_128
from cluster.contracts.records import Conversation, Message
from training.conversations.artifact import ReadConversation

Turns = Literal["first", "last", "every"]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Prompt:
    """Messages that end where the assistant is to speak, and where the conversation stood."""

    messages: tuple[Message, ...]
    conversation: Conversation
    uri: str
    offset: int

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """What the assistant may call."""
        return self.conversation.get("tools")

    @property
    def id(self) -> str:
        """16 hexadecimal digits that are the same for the same messages and tools, wherever they stand."""
        (high,), _ = blake2b_128([orjson.dumps([self.messages, self.tools], option=orjson.OPT_SORT_KEYS)])
        return f"{int(high):016x}"


def distinct_prompts(rows: Iterable[ReadConversation], turns: Turns = "first") -> list[Prompt]:
    """What stands before the first, the last or every answer of each conversation; every prompt once, in order.

    A row that ends with the user is a prompt as a whole.
    """
    found: dict[str, Prompt] = {}
    for row in rows:
        for messages in _before_answers(row.conversation, turns):
            prompt = Prompt(messages, row.conversation, row.uri, row.offset)
            found.setdefault(prompt.id, prompt)
    return list(found.values())


def spread_over(items: Sequence[_Item], count: int | None) -> Sequence[_Item]:
    """`count` of the items at even distances, so that no topic is left out because it comes late; None: all."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _before_answers(conversation: Conversation, turns: Turns) -> Iterator[tuple[Message, ...]]:
    messages = conversation["messages"]
    if messages[-1]["role"] == "user":
        yield tuple(messages)
        return
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant" and place]
    wanted = {"first": answers[:1], "last": answers[-1:], "every": answers}[turns]
    yield from (tuple(messages[:place]) for place in wanted)
