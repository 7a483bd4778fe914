"""Tasks that are judged by what a model finds likely: multiple choice, and pairs of answers."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.contracts.chat.rendering import ChatRefused
from training.evaluate.items import Row
from training.evaluate.reader import Reader, assistant, preferred
from training.evaluate.task_config import Task
from training.evaluate.task_files import TaskItem


def pair_items(reader: Reader, task: Task, items: Sequence[TaskItem]) -> tuple[list[Row], list[str | None]]:
    """Whether the chosen answer is the likelier one; with the group of each."""
    pairs = [
        {"prompt": list(item.messages), "chosen": assistant(item.texts[0]), "rejected": assistant(item.texts[1])}
        for item in items
    ]
    sides = [
        reader.encoder.prompt_answers([(pair["prompt"], pair[side], None) for pair in pairs])
        for side in ("chosen", "rejected")
    ]
    return _most_likely(reader, items, list(zip(*sides, strict=True)), task.normalise_length, with_end=True)


def choice_items(reader: Reader, task: Task, items: Sequence[TaskItem]) -> tuple[list[Row], list[str | None]]:
    """Whether the right choice is the likeliest; with the group of each."""
    encoded = [
        reader.encoder.prompt_answers([(list(item.messages), assistant(text), None) for text in item.texts])
        for item in items
    ]
    return _most_likely(reader, items, encoded, task.normalise_length, with_end=False)


Encoded = tuple[list[int], list[int]] | ChatRefused


def _most_likely(
    reader: Reader,
    items: Sequence[TaskItem],
    encoded: Sequence[Sequence[Encoded]],
    normalise_length: str,
    *,
    with_end: bool,
) -> tuple[list[Row], list[str | None]]:
    """Items of which the right text is the likeliest. Those that a template refuses or that are too long are left out.

    `with_end`: whether the token that ends an answer counts.
    """
    usable: list[tuple[TaskItem, list[tuple[list[int], list[int]]]]] = []
    for item, sides in zip(items, encoded, strict=True):
        whole = [side for side in sides if not isinstance(side, ChatRefused)]
        longest = max((len(prompt) + len(answer) for prompt, answer in whole), default=0)
        if len(whole) == len(sides) and longest <= reader.config.max_length:
            usable.append((item, whole))
    sequences = [prompt + answer for _, sides in usable for prompt, answer in sides]
    masks = [
        [False] * len(prompt) + [True] * (len(answer) - 1) + [with_end]
        for _, sides in usable
        for prompt, answer in sides
    ]
    logprobs, counts = reader.logprobs(sequences, masks)
    rows: list[Row] = []
    start = 0
    for item, sides in usable:
        stop = start + len(sides)
        lengths = {
            "none": [1] * len(sides),
            "tokens": [max(count, 1) for count in counts[start:stop]],
            "bytes": [len(text.encode()) for text in item.texts],
        }[normalise_length]
        scores = [logprob / length for logprob, length in zip(logprobs[start:stop], lengths, strict=True)]
        start = stop
        others = max(score for place, score in enumerate(scores) if place != item.right)
        rows.append((item.id, item.cluster, preferred(scores[item.right], others), 1.0))
    return rows, [item.group for item, _ in usable]
