"""Feedback by a hidden scorer, to see whether a reward model recovers its order (bar 6).

The scorer gives every word of a small vocabulary a weight, drawn once, and an answer the sum of its words' weights. It
looks at no order and at no length. Prompts are distinct, so held-out ones share no text with training but the words.
"""

from __future__ import annotations

import random
from typing import Any

from training.feedback.rows import Ranking, Scores

_WORDS = "able bold calm dark easy fair glad hard idle just kind late mild neat open pale quick rare slow tall".split()
_WORDS_OF_AN_ANSWER = 6


class HiddenScorer:
    """Ranks and scores answers that it makes up."""

    def __init__(self, *, seed: int) -> None:
        generator = random.Random(seed)
        self._weights = {word: generator.gauss(0, 1) for word in _WORDS}

    def score(self, answer: str) -> float:
        """What the scorer makes of an answer: the sum of its words' weights."""
        return sum(self._weights[word] for word in answer.split())

    def rankings(self, count: int, *, start: int, num_answers: int = 4) -> list[Ranking]:
        """Rankings of `num_answers` answers to `count` prompts, which are numbered from `start`."""
        rows = []
        for number in range(start, start + count):
            answers = _answers(number, num_answers)
            order = sorted(answers, key=self.score, reverse=True)
            ranks = [order.index(answer) + 1 for answer in answers]
            rows.append(Ranking(kind="ranking", ranks=ranks, **_shared(number, answers)))
        return rows

    def scores(self, count: int, *, start: int) -> list[Scores]:
        """One scored answer to each of `count` prompts."""
        rows = []
        for number in range(start, start + count):
            answers = _answers(number, 1)
            rows.append(Scores(kind="scores", scores=[self.score(answers[0])], **_shared(number, answers)))
        return rows


def _answers(number: int, count: int) -> list[str]:
    generator = random.Random(f"answers {number}")
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(" ".join(generator.choices(_WORDS, k=_WORDS_OF_AN_ANSWER)))
    return list(found)


def _shared(number: int, answers: list[str]) -> Any:
    return {
        "prompt": [{"role": "user", "content": f"Describe number {number}."}],
        "answers": [[{"role": "assistant", "content": answer}] for answer in answers],
        "source": "model",
        "source_name": "hidden scorer",
    }
