"""Makes conversations of rows, in whatever of the usual forms they are.

| format              | columns that it is found by            | a row is                                              |
|---------------------|----------------------------------------|-------------------------------------------------------|
| `messages`          | messages                               | OpenAI's messages, with tools, reasoning and weights  |
| `sharegpt`          | conversations (or conversation)        | turns of {from, value}; either form is read in either |
| `prompt_completion` | prompt, completion (or response)       | texts, or lists of messages                           |
| `alpaca`            | instruction, output                    | also input, history: [[asked, answered], ...]         |
| `dolly`             | instruction, response                  | also context                                          |
| `question_answer`   | question, answer                       | also context                                          |

Every row is looked at by itself, unless the spec names a format or columns. In all of them, `system` (or
`system_prompt`) and `tools` (or `functions`) are read as well. A row that has what is asked and no column of answers
(`prompt`, `instruction` or `question` alone) is a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.contracts.records import Conversation, Message
from training.conversations.config import ColumnNames, FormatName, Mend, RowSource
from training.conversations.messages import BadRow, parse_messages, parse_tools, parse_weight, text_content
from training.conversations.templates import Instructions
from training.conversations.turns import ordered_turns

# Columns by what they hold, of each format.
_COLUMNS: Mapping[FormatName, ColumnNames] = {
    "messages": ColumnNames(messages="messages"),
    "sharegpt": ColumnNames(messages="conversations"),
    "prompt_completion": ColumnNames(prompt="prompt", answer="completion"),
    "alpaca": ColumnNames(prompt="instruction", context="input", answer="output", history="history"),
    "dolly": ColumnNames(prompt="instruction", context="context", answer="response"),
    "question_answer": ColumnNames(prompt="question", context="context", answer="answer"),
}
# What a row is told by, in this order: the columns that it must have, then what they hold.
_SIGNS: Sequence[tuple[tuple[str, ...], ColumnNames]] = (
    (("messages",), _COLUMNS["messages"]),
    (("conversations",), _COLUMNS["sharegpt"]),
    (("conversation",), ColumnNames(messages="conversation")),
    (("prompt", "completion"), _COLUMNS["prompt_completion"]),
    (("prompt", "response"), ColumnNames(prompt="prompt", answer="response")),
    (("instruction", "output"), _COLUMNS["alpaca"]),
    (("instruction", "response"), _COLUMNS["dolly"]),
    (("question", "answer"), _COLUMNS["question_answer"]),
)
_PROMPT_SIGNS: Sequence[tuple[str, ColumnNames]] = (
    ("prompt", ColumnNames(prompt="prompt")),
    ("instruction", ColumnNames(prompt="instruction", context="input")),
    ("question", ColumnNames(prompt="question", context="context")),
)
_PAIR_COLUMNS = ("chosen", "rejected")  # of preferences: no prompts to be answered
_BETWEEN = "\n\n"  # between what is asked and what it is asked about


@dataclass(frozen=True)
class ParsedRow:
    """A conversation, or a prompt alone, and how its turns were mended."""

    conversation: Conversation
    mended: tuple[Mend, ...] = ()
    is_prompt: bool = False


class RowParser:
    """Makes conversations of the rows of one set."""

    def __init__(
        self, source: RowSource, *, name: str | None = None, mend: Sequence[Mend] = (), keep_prompts: bool = False
    ) -> None:
        """`name` is what the rows' `source` says; None leaves it out."""
        self._source, self._name = source, name
        self._mend, self._keep_prompts = tuple(mend), keep_prompts
        self._instructions = None if source.template is None else Instructions(source.template)
        self._columns = given_columns(source)

    def __call__(self, row: Any) -> ParsedRow:
        """The conversation of a row. Raises `BadRow`; besides the reasons of `messages.py`, `turns.py` and
        `templates.py`, these: not_an_object, unknown_format, missing_messages, missing_prompt, bad_history,
        two_system_messages.
        """
        if not isinstance(row, Mapping):
            raise BadRow("not_an_object")
        if self._instructions is not None:
            messages = self._instructions.messages(row)
        else:
            messages = _messages(row, self._columns or detected_columns(row))
        columns = self._source.columns
        messages = self._with_system(messages, _first(row, columns.system, ("system", "system_prompt")))
        turns = ordered_turns(messages, mend=self._mend, keep_prompts=self._keep_prompts)
        conversation = Conversation(messages=turns.messages)
        tools = _first(row, columns.tools, ("tools", "functions"))
        if tools is not None and (parsed := parse_tools(tools)):
            conversation["tools"] = parsed
        if columns.weight is not None and (weight := row.get(columns.weight)) is not None:
            conversation["weight"] = parse_weight(weight)
        if isinstance(topic := row.get(columns.topic or "topic"), str):
            conversation["topic"] = topic
        if self._name is not None:
            conversation["source"] = self._name
        return ParsedRow(conversation, turns.mended, turns.is_prompt)

    def _with_system(self, messages: list[Message], said: Any) -> list[Message]:
        has_own = bool(messages) and messages[0]["role"] in ("system", "developer")
        text, _ = text_content(said)
        if text is not None and text.strip():
            if has_own and messages[0]["content"] != text:
                raise BadRow("two_system_messages")
            return messages if has_own else [Message(role="system", content=text), *messages]
        if self._source.system is not None and not has_own:
            return [Message(role="system", content=self._source.system), *messages]
        return messages


def given_columns(source: RowSource) -> ColumnNames | None:
    """The columns that a spec names, by its format or one by one; None where rows are looked at."""
    named = source.columns
    if source.format is not None:
        defaults = _COLUMNS[source.format].model_dump(exclude_none=True)
        return ColumnNames(**{**defaults, **named.model_dump(exclude_none=True)})
    return named if named.messages is not None or named.prompt is not None else None


def detected_columns(row: Mapping[str, Any]) -> ColumnNames:
    """The columns of a row, told by their names. Raises `BadRow` (unknown_format)."""
    for names, columns in _SIGNS:
        if all(name in row for name in names):
            return columns
    if not any(name in row for name in _PAIR_COLUMNS):
        for name, columns in _PROMPT_SIGNS:
            if name in row:
                return columns
    raise BadRow("unknown_format")


def _messages(row: Mapping[str, Any], columns: ColumnNames) -> list[Message]:
    if columns.messages is not None:
        values = _listed(row.get(columns.messages))
        if not values:
            raise BadRow("missing_messages")
        return parse_messages(values)
    messages: list[Message] = []
    if columns.history is not None and (history := _listed(row.get(columns.history))):
        messages += _history(history)
    prompt = row.get(columns.prompt or "prompt")
    if isinstance(listed := _listed(prompt), list):
        messages += parse_messages(listed)
    else:
        asked, _ = text_content(prompt)
        if asked is None or not asked.strip():
            raise BadRow("missing_prompt")
        about, _ = text_content(row.get(columns.context) if columns.context is not None else None)
        asked = _BETWEEN.join([asked, about]) if about is not None and about.strip() else asked
        messages.append(Message(role="user", content=asked))
    if columns.answer is not None and (answer := row.get(columns.answer)) is not None:
        listed = _listed(answer)
        messages += parse_messages(listed if isinstance(listed, list) else [{"role": "assistant", "content": answer}])
    return messages


def _history(values: Sequence[Any]) -> list[Message]:
    """Turns before the last, of Alpaca with history: pairs of what was asked and answered."""
    if not isinstance(values, list):
        raise BadRow("bad_history")
    messages: list[Message] = []
    for pair in values:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise BadRow("bad_history")
        messages += parse_messages([{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}])
    return messages


def _listed(value: Any) -> Any:
    """A list as it is, or out of the JSON that some files hold it as; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _first(row: Mapping[str, Any], named: str | None, usual: Sequence[str]) -> Any:
    """What the column holds that the spec names; else the first of the usual ones that holds anything."""
    names = usual if named is None else (named,)
    return next((value for name in names if (value := row.get(name)) not in (None, "", [])), None)
