"""Reads conversations that are written as one text, as Anthropic's HH sets have them.

Every turn begins on a line of its own behind a blank one, with "Human:" or "Assistant:". A transcript that ends with
"Assistant:" is a prompt that is to be answered.
"""

from __future__ import annotations

import re

from cluster.contracts.records import Message
from training.conversations.messages import BadRow

_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """Whether a text begins as a transcript does."""
    match = _TURN.match(text.lstrip("\n"))
    return match is not None


def parse_transcript(text: str) -> list[Message]:
    """The turns of a transcript, without the white space around them.

    Raises `BadRow`: empty_content or empty_answer for a turn without words, but for the one that is to be answered.
    """
    text = text.lstrip("\n")
    marks = list(_TURN.finditer(text))
    messages = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        content = text[mark.end() : following.start() if following is not None else len(text)].strip()
        role = _ROLES[mark[1]]
        if not content:
            if role == "assistant" and following is None:
                break
            raise BadRow("empty_answer" if role == "assistant" else "empty_content")
        messages.append(Message(role=role, content=content))  # type: ignore[typeddict-item]
    return messages
