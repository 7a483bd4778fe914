"""A chat template applied to messages: the text that is tokenised, and the parts that the template marks.

The text is the one that `apply_chat_template(tokenize=False)` of transformers gives, with what people typed of control
tokens still hidden (see `control_strings.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cluster.contracts.errors import InputError

# Words that no template writes.
ASKED, ANSWERED = "qzxasked", "qzxanswered"
_OPENINGS: tuple[tuple[Mapping[str, Any], ...], ...] = ((), ({"role": "system", "content": "qzxsystem"},))
# A call of a tool with the argument `ANSWERED`.
SMALL_CALL: Mapping[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "call00001", "function": {"name": "look_up", "arguments": {"place": ANSWERED}}}
    ],
}
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatRefused(InputError):
    """One conversation that can't be encoded; `reason` is a short fixed word, which reports count."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ChatRefused], tuple[str, str]]:
        return (ChatRefused, (self.reason, str(self)))


@dataclass(frozen=True)
class Rendering:
    """A conversation as text, and the character ranges inside `{% generation %}`, in order."""

    text: str
    marks: tuple[tuple[int, int], ...] = ()


class ChatTemplate:
    """The template of one tokenizer."""

    def __init__(self, tokenizer: Any, source: str | Mapping[str, str]) -> None:
        """`source` is a Jinja template, or several by name as some tokenizers have them."""
        self._tokenizer = tokenizer
        self._source = source
        self._special_tokens = dict(tokenizer.special_tokens_map)

    def source(self, tools: Sequence[Any] | None = None) -> str:
        """The Jinja template for a conversation with these tools. Raises `InputError` where none has the name."""
        if isinstance(self._source, str):
            return self._source
        names = ("tool_use", "default") if tools else ("default",)
        for name in names:
            if name in self._source:
                return self._source[name]
        raise InputError(
            f"the tokenizer has several chat templates ({', '.join(self._source)}) and none called default"
        )

    @property
    def has_marks(self) -> bool:
        """Whether the template marks what the assistant says."""
        return _MARK.search(self.source()) is not None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        *,
        add_generation_prompt: bool = False,
        with_marks: bool = False,
    ) -> Rendering:
        """The conversation as text. Raises `ChatRefused` (template_refuses) where the template does not take it."""
        prepared = [_prepared(message, self._form) for message in messages]
        return self._render(prepared, tools, add_generation_prompt=add_generation_prompt, with_marks=with_marks)

    @property
    def contents_are_parts(self) -> bool:
        """Whether the template writes contents only where they are lists of parts, as models that see have them."""
        return self._form.contents_are_parts

    def small_prompt(self) -> list[Mapping[str, Any]]:
        """A conversation in which the user asks `ASKED`, to be answered by `ANSWERED`, as the template takes it.

        Raises `InputError` where it takes none, or leaves out what is said.
        """
        if self._form.refusal:
            raise InputError(self._form.refusal)
        return [*self._form.opening, {"role": "user", "content": ASKED}]

    @cached_property
    def _form(self) -> _Form:
        """In which form the template takes messages: found by trying."""
        refusal = ""
        for as_parts in (False, True):
            for opening in _OPENINGS:
                form = _Form(as_parts, opening=opening)
                small = [*opening, {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
                try:
                    text = self._render([_prepared(message, form) for message in small]).text
                except ChatRefused as error:
                    refusal = refusal or f"the chat template does not take a question and an answer: {error}"
                    continue
                if ASKED in text and ANSWERED in text:
                    return replace(form, arguments_are_text=self._takes_arguments_as_text(form))
        return _Form(refusal=refusal or "the chat template leaves out what is asked or what is answered")

    def _takes_arguments_as_text(self, form: _Form) -> bool:
        """Whether the arguments of tools' calls must be text: DeepSeek's template adds them to a string."""
        asked = [*form.opening, {"role": "user", "content": ASKED}]
        for as_text in (False, True):
            tried = replace(form, arguments_are_text=as_text)
            try:
                text = self._render([_prepared(message, tried) for message in [*asked, SMALL_CALL]]).text
            except ChatRefused:
                continue
            if ANSWERED in text:
                return as_text
        return False

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        *,
        add_generation_prompt: bool = False,
        with_marks: bool = False,
    ) -> Rendering:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, marks = render_jinja_template(
                [messages],
                tools=tools or None,
                chat_template=self.source(tools),
                return_assistant_tokens_mask=with_marks,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except Exception as error:  # a template is a program; it may stumble over anything
            raise ChatRefused(
                "template_refuses", f"the model's chat template refuses these messages: {error}"
            ) from error
        return Rendering(texts[0], tuple((start, end) for start, end in marks[0]) if with_marks else ())


@dataclass(frozen=True)
class _Form:
    contents_are_parts: bool = False  # whether contents are handed over as lists of parts, not as text
    arguments_are_text: bool = False  # whether arguments of tools' calls are handed over as JSON text, not as objects
    opening: tuple[Mapping[str, Any], ...] = ()  # what must stand before the first question
    refusal: str = ""  # why the template is of no use, if so


def _prepared(message: Mapping[str, Any], form: _Form) -> dict[str, Any]:
    """A message as the template takes it: without what is ours alone and, as transformers does it, without nulls.

    Arguments of tools' calls are JSON text in OpenAI's messages and objects in most templates; most would write text a
    second time as JSON.
    """
    prepared = {key: value for key, value in message.items() if value is not None and key != "weight"}
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [
            _call_in_form(call, as_text=form.arguments_are_text) for call in prepared["tool_calls"]
        ]
    if form.contents_are_parts and isinstance(prepared.get("content"), str):
        prepared["content"] = [{"type": "text", "text": prepared["content"]}]
    return prepared


def _call_in_form(call: Any, *, as_text: bool) -> Any:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return call
        arguments = parsed if isinstance(parsed, dict) else arguments
    changed = {**function, "arguments": arguments}
    return {**call, "function": changed} if "function" in call else changed
