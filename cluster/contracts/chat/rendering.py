"""A chat template applied to messages: the text that is tokenised, and the parts that the template marks.

The text is the one that `apply_chat_template(tokenize=False)` of transformers gives, with what people typed of control
tokens still hidden (see `control_strings.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.contracts.errors import InputError

# Words that no template writes.
ASKED, ANSWERED = "qzxasked", "qzxanswered"
_OPENINGS: tuple[tuple[Mapping[str, Any], ...], ...] = ((), ({"role": "system", "content": "qzxsystem"},))
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
        prepared = [_prepared(message, as_parts=self._form.contents_are_parts) for message in messages]
        return self._render(prepared, tools, add_generation_prompt=add_generation_prompt, with_marks=with_marks)

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
                small = [*opening, {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
                try:
                    text = self._render([_prepared(message, as_parts=as_parts) for message in small]).text
                except ChatRefused as error:
                    refusal = refusal or f"the chat template does not take a question and an answer: {error}"
                    continue
                if ASKED in text and ANSWERED in text:
                    return _Form(as_parts, opening)
        return _Form(refusal=refusal or "the chat template leaves out what is asked or what is answered")

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
    opening: tuple[Mapping[str, Any], ...] = ()  # what must stand before the first question
    refusal: str = ""  # why the template is of no use, if so


def _prepared(message: Mapping[str, Any], *, as_parts: bool) -> dict[str, Any]:
    """A message as templates take it: without what is ours alone and, as transformers does it, without nulls."""
    prepared = {key: value for key, value in message.items() if value is not None and key != "weight"}
    if as_parts and isinstance(prepared.get("content"), str):
        prepared["content"] = [{"type": "text", "text": prepared["content"]}]
    return prepared
