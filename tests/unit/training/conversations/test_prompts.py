"""Prompts of conversations."""

from typing import Any

from cluster.contracts.records import Conversation
from training.conversations.artifact import ReadConversation
from training.conversations.prompts import distinct_prompts, spread_over


def row(*contents: str, tools: Any = None) -> ReadConversation:
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    more = {} if tools is None else {"tools": tools}
    return ReadConversation(Conversation(messages=messages, **more), "a.jsonl", 0)  # type: ignore[typeddict-item]


def contents(rows: list[ReadConversation], turns: Any) -> list[list[str]]:
    return [[message["content"] for message in prompt.messages] for prompt in distinct_prompts(rows, turns)]


def test_prompts_stand_before_the_answers_asked_for() -> None:
    rows = [row("q1", "a1", "q2", "a2"), row("q1", "other")]
    assert contents(rows, "first") == [["q1"]]
    assert contents(rows, "last") == [["q1", "a1", "q2"], ["q1"]]
    assert contents(rows, "every") == [["q1"], ["q1", "a1", "q2"]]


def test_tools_make_another_prompt() -> None:
    ids = [prompt.id for prompt in distinct_prompts([row("q", "a"), row("q", "a", tools=[{"name": "f"}])])]
    assert len(set(ids)) == 2
    assert all(len(identifier) == 16 for identifier in ids)


def test_a_limited_number_of_prompts_is_taken_from_all_over_the_file() -> None:
    prompts = [[i] for i in range(10)]
    assert spread_over(prompts, 3) == [[0], [3], [6]]
    assert spread_over(prompts, None) == spread_over(prompts, 99) == prompts
