"""Where a prompt ends and its answers begin; which answers are the same; by which prompts rows are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from cluster.contracts.records import Message
from training.conversations.messages import BadRow
from training.conversations.turns import ordered_turns
from training.feedback.conversions import identity
from training.feedback.rows import Answer, FeedbackRow


def common_prompt(prompt: list[Message] | None, given: Sequence[Answer]) -> tuple[list[Message], list[Answer]]:
    """(prompt, answers) of answers that are given alone, or as whole conversations with the prompt before them.

    Whole conversations share the prompt, up to the first answer that differs. Where a prompt is given too, it must be
    what they ask.

    Raises `BadRow`: missing_prompt, prompt_differs (from the one given), prompts_differ (among the answers),
    missing_answer, same_answers (of two), and the reasons of `ordered_turns` for each conversation.
    """
    if not all(given):
        raise BadRow("missing_answer")
    begin_with_answer = [answer[0]["role"] == "assistant" for answer in given]
    if all(begin_with_answer):
        if not prompt:
            raise BadRow("missing_prompt")
        answers = list(given)
    elif any(begin_with_answer):
        raise BadRow("prompts_differ")
    else:
        whole, answers = _split(given)
        if prompt and not _asks_the_same(prompt, whole):
            raise BadRow("prompt_differs")
        prompt = whole
    for answer in answers:
        ordered_turns([*prompt, *answer])
    if len(answers) == 2 and _said(answers[0]) == _said(answers[1]):
        raise BadRow("same_answers")
    return prompt, answers


def without_repeats(answers: Sequence[Answer], ranks: Sequence[int] | None = None) -> list[int]:
    """The numbers of the answers that are not among those before them. Raises `BadRow` (same_answers) where a repeated
    answer has another rank.
    """
    first: dict[bytes, int] = {}
    for number, answer in enumerate(answers):
        earlier = first.setdefault(_said(answer), number)
        if ranks is not None and ranks[earlier] != ranks[number]:
            raise BadRow("same_answers")
    return list(first.values())


def asked(row: FeedbackRow) -> Iterator[str]:
    """What the user asks in a row, first prompt first, without case and white space. The split goes by the first one.

    A row without a user's turn, which can't be read from files, is told apart by all of its prompt.
    """
    users = [message for message in row["prompt"] if message["role"] == "user"]
    for message in users or row["prompt"]:
        yield normalised(message["content"])


def normalised(prompt: str) -> str:
    """A prompt without case and white space: what prompts are told apart by, as in `is_heldout`."""
    return " ".join(prompt.casefold().split())


def _split(conversations: Sequence[Answer]) -> tuple[list[Message], list[Answer]]:
    """The beginning that conversations share, and what follows on it in each. Of one alone, its last answer."""
    if len(conversations) == 1:
        (only,) = conversations
        begin = max((n for n, message in enumerate(only) if message["role"] == "user"), default=-1) + 1
        return only[:begin], [only[begin:]] if only[begin:] else [[]]
    alike = takewhile(lambda turns: len({identity(turn) for turn in turns}) == 1, zip(*conversations, strict=False))
    shared = sum(1 for _ in alike)
    if all(len(conversation) == shared for conversation in conversations):
        raise BadRow("same_answers")
    answers = [conversation[shared:] for conversation in conversations]
    if any(not answer for answer in answers):
        raise BadRow("missing_answer")
    if shared == 0 or any(answer[0]["role"] != "assistant" for answer in answers):
        raise BadRow("prompts_differ")
    return conversations[0][:shared], answers


def _asks_the_same(prompt: Sequence[Message], whole: Sequence[Message]) -> bool:
    last = [next((m["content"] for m in reversed(side) if m["role"] == "user"), "") for side in (prompt, whole)]
    return last[0].split() == last[1].split()


def _said(answer: Answer) -> bytes:
    """An answer without the accidents of its white space."""
    said: list[Any] = [{**message, "content": " ".join(message["content"].split())} for message in answer]
    return identity(said)
