"""Turns labelled rows into instructions, by templates such as "Is this review positive?\\n\\n{text}".

A field in braces stands for a column of the row, `{choices[0]}` for an item of a list in it; `{{` and `}}` are braces.
Nothing else is looked up or computed, so that a row can't do anything by what it holds. Where a set has several
templates for the prompt, a hash of the row's own values draws one, so that no other row changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cluster.contracts.hashing import derived_seed
from cluster.contracts.records import Message
from training.conversations.config import InstructionTemplate
from training.conversations.messages import BadRow
from training.conversations.template_fields import Piece, parsed_template


class Instructions:
    """The templates of one set."""

    def __init__(self, template: InstructionTemplate) -> None:
        self._prompts = [parsed_template(text) for text in template.prompts]
        self._answer = parsed_template(template.answer)
        self._system = None if template.system is None else parsed_template(template.system)
        self._labels = template.labels
        self._columns = sorted({name for pieces in (*self._prompts, self._answer) for _, name, _ in pieces if name})

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """A prompt and its answer, and before them what the system says where the template has that.

        Raises `BadRow` with one of: missing_column, null_column, not_text (a list or a mapping), unknown_label,
        empty_content (the prompt), empty_answer.
        """
        prompt = self._filled(self._prompts[self._drawn(row)], row)
        answer = self._filled(self._answer, row)
        if not prompt.strip():
            raise BadRow("empty_content")
        if not answer.strip():
            raise BadRow("empty_answer")
        messages = [Message(role="user", content=prompt), Message(role="assistant", content=answer)]
        if self._system is not None:
            messages.insert(0, Message(role="system", content=self._filled(self._system, row)))
        return messages

    def _drawn(self, row: Mapping[str, Any]) -> int:
        if len(self._prompts) == 1:
            return 0
        values = orjson.dumps([row.get(name) for name in self._columns], default=str).decode()
        return derived_seed("template", values) % len(self._prompts)

    def _filled(self, pieces: list[Piece], row: Mapping[str, Any]) -> str:
        return "".join(text if name is None else text + self._value(row, name, item) for text, name, item in pieces)

    def _value(self, row: Mapping[str, Any], name: str, item: int | None) -> str:
        if name not in row:
            raise BadRow("missing_column")
        value = row[name]
        if item is not None:
            if not isinstance(value, list) or item >= len(value):
                raise BadRow("missing_column")
            value = value[item]
        if value is None:
            raise BadRow("null_column")
        if not isinstance(value, str | int | float):
            raise BadRow("not_text")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        labels = self._labels.get(name)
        if labels is None:
            return text
        if text not in labels:
            raise BadRow("unknown_label")
        return labels[text]
