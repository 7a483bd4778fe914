"""Cuts conversations into answers, each with all that was said before it, and texts into words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.contracts.records import Conversation

_WORD = re.compile(r"\w(?:\S*\w)?")  # a word without the punctuation around it


@dataclass(frozen=True)
class PromptAnswer:
    """One assistant turn, and the conversation that it answers."""

    prompt: tuple[tuple[str, str], ...]  # (role, content) of the messages before
    answer: str

    @property
    def num_words(self) -> int:
        return len(words(self.answer))


def words(text: str) -> list[str]:
    """The words of a text without the punctuation around them, as they are written."""
    return _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of the words of a text, in characters, without the punctuation around them."""
    return [match.span() for match in _WORD.finditer(text)]


def prompt_answers(conversations: Iterable[Conversation]) -> list[PromptAnswer]:
    """Every assistant turn with what came before it; each (prompt, answer) once, in order of appearance."""
    found: dict[PromptAnswer, None] = {}
    for conversation in conversations:
        history: tuple[tuple[str, str], ...] = ()
        for message in conversation["messages"]:
            if message["role"] == "assistant":
                found.setdefault(PromptAnswer(history, message["content"]))
            history = (*history, (message["role"], message["content"]))
    return list(found)
