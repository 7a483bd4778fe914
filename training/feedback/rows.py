"""What one row of feedback is: two answers, several ranked ones, scored ones, or one with a thumb up or down.

Whoever reads feedback from files, makes it or collects it makes these rows; `artifact.py` stores them, all kinds under
one schema, and `conversions.py` makes one kind out of another. An answer is a list of messages: mostly one of the
assistant, and where it used tools or the conversation went on, all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

from cluster.contracts.records import Message
from training.conversations.prompt_answers import PromptAnswer

Source = Literal["file", "campaign", "model", "made"]
Answer = list[Message]


class Feedback(TypedDict):
    """What rows of all kinds have: the prompt, who judged its answers, and where the row stood."""

    prompt: list[Message]
    source: Source
    """Where the judgement came from: a file, a feedback campaign, a model, or answers made worse by construction."""
    source_name: str
    """Which of them: the file's name, the campaign, the model, how a worse answer was made."""
    tools: NotRequired[list[dict[str, Any]]]
    """JSON Schemas of the functions that the answers may call."""
    topic: NotRequired[str]
    """The subset that the row belongs to; figures are given by topic too."""
    weight: NotRequired[float]
    """How much the row counts in a loss, 1 where it is not given."""
    uri: NotRequired[str]
    offset: NotRequired[int]
    """The file that the row was read from, and its place in it, as in quarantined rows."""
    reward_model_only: NotRequired[bool]
    """Whether reward models alone learn from the row, and policies don't."""


class PreferencePair(Feedback):
    """One answer is better than another."""

    kind: Literal["pair"]
    chosen: Answer
    rejected: Answer
    margin: NotRequired[float]
    """How much better, at least 0; a reward model may be asked for such a difference of rewards."""


class Ranking(Feedback):
    """Several answers, best to worst."""

    kind: Literal["ranking"]
    answers: list[Answer]
    ranks: list[int]
    """1 is best; answers that nobody could tell apart share a number."""
    models: NotRequired[list[str | None]]
    """Who gave each answer."""


class Scores(Feedback):
    """One answer or several, each with a number that is higher for better ones."""

    kind: Literal["scores"]
    answers: list[Answer]
    scores: list[float]
    criteria: NotRequired[list[dict[str, float]]]
    """The scores by criterion that each answer's one score was made of."""
    score_range: NotRequired[tuple[float, float]]
    """The lowest and the highest score of the scale."""
    models: NotRequired[list[str | None]]


class Label(Feedback):
    """One answer with a thumb up or down."""

    kind: Literal["label"]
    answer: Answer
    label: bool


FeedbackRow = PreferencePair | Ranking | Scores | Label


def preference_pair(preferred: PromptAnswer, rejected: str, negative: str) -> PreferencePair:
    """The answer of `preferred` over the text `rejected`, made as `negative` says, to the same prompt."""
    return PreferencePair(
        kind="pair",
        prompt=[Message(role=role, content=content) for role, content in preferred.prompt],  # type: ignore[typeddict-item]
        chosen=[Message(role="assistant", content=preferred.answer)],
        rejected=[Message(role="assistant", content=rejected)],
        source="made",
        source_name=negative,
    )


def answer_text(answer: Sequence[Message]) -> str:
    """The words of an answer: what the assistant says in all its turns, with a line break between them."""
    return "\n".join(message["content"] for message in answer if message["role"] == "assistant")
