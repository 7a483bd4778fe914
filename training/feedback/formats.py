"""Makes feedback of the rows that people have, in whatever of the usual forms they are.

| rows       | columns that they are found by                        | a row is                                       |
|------------|-------------------------------------------------------|------------------------------------------------|
| `pairs`    | chosen, rejected                                      | two answers, the better one first              |
| `rankings` | answers (responses, completions) with ranks           | several answers, 1 the best                    |
| `scores`   | the same with scores; or one answer with score columns | answers with one number or several each        |
| `labels`   | completion (response, answer, output), label          | an answer with a thumb up or down              |

What is asked is a text, a list of messages, or a transcript (`transcripts.py`), in a column of its own; or answers are
whole conversations, and the prompt is the beginning that they share. An answer is a text, a message, or a list of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.contracts.records import Message
from training.conversations.messages import BadRow, parse_messages, parse_tools, text_content
from training.feedback.config import FeedbackColumns, FeedbackSource, RowKind
from training.feedback.prompts import common_prompt, without_repeats
from training.feedback.row_values import (
    column_names,
    decoded_list,
    decoded_messages,
    dense_ranks,
    is_texts,
    parse_answer,
    parse_number,
    parse_thumb,
    value_of,
    values_beside,
)
from training.feedback.rows import FeedbackRow, Label, PreferencePair, Ranking, Scores
from training.feedback.transcripts import is_transcript, parse_transcript

_PROMPTS = ("prompt", "question", "instruction", "query", "messages", "conversations")
_CONTEXTS = ("input", "context")  # what a question is asked about
_SEVERAL = ("answers", "responses", "completions")
_ONE = ("completion", "response", "answer", "output")
_RANKS = ("ranks", "rank")
_WHOLE_SCORES = ("score", "scores", "overall_score", "rating", "reward")  # each stands for an answer as a whole
_CRITERIA = (*_WHOLE_SCORES, "helpfulness", "correctness", "coherence", "complexity", "verbosity")


class FeedbackParser:
    """Makes feedback of the rows of some files."""

    def __init__(self, settings: FeedbackSource, *, name: str) -> None:
        """`name` is what the rows' `source_name` says."""
        self._settings, self._name = settings, name

    def __call__(self, row: Any) -> FeedbackRow:
        """What the row says.

        Raises `BadRow`; besides the reasons of `messages.py`, `prompts.py` and `turns.py`, one of: not_an_object,
        unknown_format, missing_answer, null_answer, empty_answer, bad_answer, missing_prompt, bad_prompt, bad_margin,
        bad_weight, bad_rank, ranks_do_not_fit, all_tied, single_answer, null_score, bad_score, scores_do_not_fit,
        score_out_of_range, null_label, bad_label.
        """
        if not isinstance(row, Mapping):
            raise BadRow("not_an_object")
        kind = self._settings.rows or detected_rows(row, self._settings.columns)
        shared = self._shared(row)
        prompt = self._prompt(row)
        if kind == "pairs":
            return self._pair(row, prompt, shared)
        if kind == "labels":
            return self._label(row, prompt, shared)
        return self._several(row, kind, prompt, shared)

    def _shared(self, row: Mapping[str, Any]) -> dict[str, Any]:
        columns = self._settings.columns
        shared: dict[str, Any] = {"source": "file", "source_name": self._name}
        topic = value_of(row, columns.topic, ("topic", "subset", "category"))
        if isinstance(topic, str) and topic:
            shared["topic"] = topic
        weight = value_of(row, columns.weight, ("weight",))
        if weight is not None:
            shared["weight"] = parse_number(weight, "bad_weight")
            if shared["weight"] < 0:
                raise BadRow("bad_weight")
        tools = value_of(row, columns.tools, ("tools",))
        if tools:
            shared["tools"] = parse_tools(tools)
        return shared

    def _prompt(self, row: Mapping[str, Any]) -> list[Message] | None:
        """What is asked; None where the answers hold it."""
        columns = self._settings.columns
        value = value_of(row, columns.prompt, _PROMPTS)
        system, _ = text_content(value_of(row, columns.system, ("system", "system_prompt")))
        if value is None:
            return None
        value = decoded_messages(value)
        if isinstance(value, str):
            if not value.strip():
                raise BadRow("missing_prompt")
            prompt = parse_transcript(value) if is_transcript(value) else [_question(row, value, columns)]
        elif isinstance(value, list):
            prompt = parse_messages(value)
        elif isinstance(value, Mapping):
            prompt = parse_messages([value])
        else:
            raise BadRow("bad_prompt")
        if system is not None and system.strip() and prompt[:1] and prompt[0]["role"] not in ("system", "developer"):
            prompt = [Message(role="system", content=system), *prompt]
        return prompt

    def _pair(
        self, row: Mapping[str, Any], prompt: list[Message] | None, shared: Mapping[str, Any]
    ) -> PreferencePair | Ranking:
        columns = self._settings.columns
        sides = [value_of(row, columns.chosen, ("chosen",)), value_of(row, columns.rejected, ("rejected",))]
        if any(is_texts(side) for side in sides):
            return _one_over_several(sides, prompt, shared)
        prompt, (chosen, rejected) = common_prompt(prompt, [parse_answer(side) for side in sides])
        pair: dict[str, Any] = {"kind": "pair", "prompt": prompt, "chosen": chosen, "rejected": rejected, **shared}
        margin = self._margin(row)
        if margin is not None:
            pair["margin"] = margin
        return pair  # type: ignore[return-value]

    def _margin(self, row: Mapping[str, Any]) -> float | None:
        columns = self._settings.columns
        if columns.chosen_score is not None and columns.rejected_score is not None:
            better, worse = (self._score(row.get(name)) for name in (columns.chosen_score, columns.rejected_score))
            low, high = self._settings.score_range or (0.0, 1.0)
            margin = (better - worse) / (high - low)
        else:
            value = value_of(row, columns.margin, ("margin",))
            if value is None:
                return None
            margin = parse_number(value, "bad_margin")
        if margin < 0:
            raise BadRow("bad_margin")
        return margin

    def _label(self, row: Mapping[str, Any], prompt: list[Message] | None, shared: Mapping[str, Any]) -> Label:
        columns = self._settings.columns
        prompt, (answer,) = common_prompt(prompt, [parse_answer(value_of(row, columns.answer, _ONE))])
        value = parse_thumb(value_of(row, columns.label, ("label",)))
        return {"kind": "label", "prompt": prompt, "answer": answer, "label": value, **shared}  # type: ignore[return-value, typeddict-item]

    def _several(
        self, row: Mapping[str, Any], kind: RowKind, prompt: list[Message] | None, shared: Mapping[str, Any]
    ) -> Ranking | Scores:
        columns = self._settings.columns
        values = decoded_list(value_of(row, columns.answers, _SEVERAL))
        if values is None and kind == "scores":
            return self._one_scored(row, prompt, shared)
        if not isinstance(values, list) or not values:
            raise BadRow("missing_answer")
        given = [parse_answer(value) for value in values]
        prompt, answers = common_prompt(prompt, given)
        found: dict[str, Any] = {"prompt": prompt, **shared}
        models = [value.get("model") if isinstance(value, Mapping) else None for value in values]
        if kind == "rankings":
            ranks = self._ranks(row, values)
            kept = without_repeats(answers, ranks)
            found |= {"kind": "ranking", "ranks": dense_ranks([ranks[n] for n in kept])}
            if len(kept) < 2:
                raise BadRow("single_answer")
            if len(set(found["ranks"])) < 2:
                raise BadRow("all_tied")
        else:
            criteria = self._criteria_of_several(row, values)
            kept = without_repeats(answers)
            found |= self._scored([criteria[n] for n in kept])
        found["answers"] = [answers[n] for n in kept]
        if any(isinstance(model, str) for model in models):
            found["models"] = [models[n] for n in kept]
        return found  # type: ignore[return-value]

    def _ranks(self, row: Mapping[str, Any], values: Sequence[Any]) -> list[int]:
        """The answers' ranks; where there are none, the best comes first (only with `rows: rankings`)."""
        try:
            return dense_ranks(values_beside(row, values, self._settings.columns.ranks, _RANKS, "ranks_do_not_fit"))
        except KeyError:
            if self._settings.columns.ranks is not None:
                raise BadRow("ranks_do_not_fit") from None
            return list(range(1, len(values) + 1))

    def _one_scored(self, row: Mapping[str, Any], prompt: list[Message] | None, shared: Mapping[str, Any]) -> Scores:
        columns = self._settings.columns
        prompt, answers = common_prompt(prompt, [parse_answer(value_of(row, columns.answer, _ONE))])
        names = columns.scores or [name for name in _CRITERIA if name in row]
        criteria = [{name: self._score(row.get(name)) for name in names}]
        return {"prompt": prompt, "answers": answers, **shared, **self._scored(criteria)}  # type: ignore[return-value, typeddict-item]

    def _criteria_of_several(self, row: Mapping[str, Any], values: Sequence[Any]) -> list[dict[str, float]]:
        names = self._settings.columns.scores or [
            name for name in _CRITERIA if name in row or (isinstance(values[0], Mapping) and name in values[0])
        ]
        try:
            columns = {name: values_beside(row, values, name, (), "scores_do_not_fit") for name in names}
        except KeyError:
            raise BadRow("missing_score") from None
        return [{name: self._score(column[n]) for name, column in columns.items()} for n in range(len(values))]

    def _scored(self, criteria: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """One score of each answer's criteria, and their scale where the settings give one."""
        if not criteria[0]:
            raise BadRow("missing_score")
        weights = self._settings.score_weights
        whole = next((name for name in _WHOLE_SCORES if name in criteria[0]), None)
        if weights is None:
            names = [whole] if whole is not None and self._settings.columns.scores is None else list(criteria[0])
            weights = dict.fromkeys(names, 1 / len(names))
        try:
            scores = [math.fsum(weight * parts[name] for name, weight in weights.items()) for parts in criteria]
        except KeyError as error:
            raise BadRow("missing_score") from error
        found: dict[str, Any] = {"kind": "scores", "scores": scores}
        if len(criteria[0]) > 1:
            found["criteria"] = [dict(parts) for parts in criteria]
        if self._settings.score_range is not None:
            ends = [[weight * end for end in self._settings.score_range] for weight in weights.values()]
            found["score_range"] = (math.fsum(map(min, ends)), math.fsum(map(max, ends)))
        return found

    def _score(self, value: Any) -> float:
        if value is None:
            raise BadRow("null_score")
        score = parse_number(value, "bad_score")
        allowed = self._settings.score_range
        if allowed is not None and not allowed[0] <= score <= allowed[1]:
            raise BadRow("score_out_of_range")
        return score


def detected_rows(row: Mapping[str, Any], columns: FeedbackColumns) -> RowKind:
    """What a row is, by the columns that it has or that the settings name. Raises `BadRow` (unknown_format)."""
    if (columns.chosen or "chosen") in row or (columns.rejected or "rejected") in row:
        return "pairs"
    several = next((name for name in column_names(columns.answers, _SEVERAL) if name in row), None)
    ranks = column_names(columns.ranks, _RANKS)
    scores = columns.scores or _CRITERIA
    if several is not None:
        values = decoded_list(row[several])
        inside = values[0] if isinstance(values, list) and values and isinstance(values[0], Mapping) else {}
        if any(name in row or name in inside for name in ranks):
            return "rankings"
        if any(name in row or name in inside for name in scores):
            return "scores"
        raise BadRow("unknown_format")
    if any(name in row for name in column_names(columns.answer, _ONE)):
        if (columns.label or "label") in row:
            return "labels"
        if any(name in row for name in scores):
            return "scores"
    if any(name in row for name in column_names(columns.prompt, _PROMPTS)):
        raise BadRow("missing_answer")
    raise BadRow("unknown_format")


def _question(row: Mapping[str, Any], prompt: str, columns: FeedbackColumns) -> Message:
    """What the user asks, with what it is asked about behind a blank line."""
    context = value_of(row, columns.context, _CONTEXTS)
    about = context if isinstance(context, str) else ""
    return Message(role="user", content="\n\n".join(text for text in (prompt, about) if text.strip()))


def _one_over_several(sides: Sequence[Any], prompt: list[Message] | None, shared: Mapping[str, Any]) -> Ranking:
    """Every chosen answer above every rejected one, where either is a list of texts."""
    listed = [side if is_texts(side) else [side] for side in sides]
    values = [value for side in listed for value in side]
    ranks = [rank for rank, side in enumerate(listed, 1) for _ in side]
    prompt, answers = common_prompt(prompt, [parse_answer(value) for value in values])
    kept = without_repeats(answers, ranks)
    found = {"kind": "ranking", "prompt": prompt, "answers": [answers[n] for n in kept], **shared}
    return found | {"ranks": [ranks[n] for n in kept]}  # type: ignore[return-value]
