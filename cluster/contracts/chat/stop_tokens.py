"""With which tokens a chat template ends an answer: found by having it render small conversations.

The end of a turn is the first control token behind the assistant's words. It need not be the last thing that the
template writes in a turn: many write a line break after it. Several tokens are possible; GPT-OSS ends its last answer
with `<|return|>` and earlier ones with `<|end|>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.contracts.chat.control_strings import ControlStrings
from cluster.contracts.chat.rendering import ANSWERED, SMALL_CALL, ChatRefused, ChatTemplate
from cluster.contracts.errors import InputError

_ASKED_AGAIN, _ANSWERED_AGAIN = "qzxwondered", "qzxreplied"  # words that no template writes


@dataclass(frozen=True)
class TemplateFacts:
    """What is the same for all conversations under a template."""

    stop_tokens: tuple[str, ...]  # the one that ends a last answer first
    stop_is_given: bool  # whether the user named the stop token
    generation_prompt: str  # what is written where the assistant is to speak
    prompt_lead: str  # the first control token of `generation_prompt`, or all of it where there is none

    def behind_prompt(self, text: str, start: int, end: int) -> int | None:
        """The place behind what is written of the generation prompt between two places of a text, or None.

        Where only its beginning is written (without `<think>`, say), it is behind that; at the utmost it is `end`.
        """
        if not self.generation_prompt:
            return end
        begins = [match.start() for match in re.finditer(re.escape(self.prompt_lead), text[start:end])]
        lengths = [common_length(self.generation_prompt, text[start + begin : end]) for begin in begins]
        if not lengths:
            return None
        longest = lengths.index(max(lengths))
        return start + begins[longest] + lengths[longest]


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items (characters, token ids) two sequences have in common from their beginnings on."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def read_template(template: ChatTemplate, controls: ControlStrings, stop_token: str | None) -> TemplateFacts:
    """Find out how a template ends answers; `stop_token`, if given, is taken for it.

    Raises `InputError` for a template that leaves out messages, or writes no control token behind an answer.
    """
    prompt = template.small_prompt()
    asked = _added_prompt(template, controls, prompt)
    lead = next((match[0] for match in controls.find(asked)), asked)
    if stop_token is not None:
        return TemplateFacts((stop_token,), True, asked, lead)
    once = [*prompt, {"role": "assistant", "content": ANSWERED}]
    last = _first_behind(template, controls, once, ANSWERED)
    if last is None:
        raise InputError(
            "the chat template writes no special token behind the assistant's last answer, so a model trained with it "
            "would never stop; name the token with stop_token:, or give another template with chat_template:"
        )
    _check_marked(template, once, last)
    stops = [last]
    twice = [*once, {"role": "user", "content": _ASKED_AGAIN}, {"role": "assistant", "content": _ANSWERED_AGAIN}]
    stops += _unless_refused(template, controls, twice, ANSWERED)
    stops += _of_tool_calls(template, controls, prompt, stops)
    return TemplateFacts(tuple(dict.fromkeys(stops)), False, asked, lead)


def _added_prompt(template: ChatTemplate, controls: ControlStrings, prompt: Sequence[Mapping[str, Any]]) -> str:
    """What `add_generation_prompt` adds; "" for a template without."""
    text = template.render(prompt, add_generation_prompt=True).text
    without = template.render(prompt).text
    start = common_length(text, without)  # Phi-3 writes an end of text where no answer is asked for
    cut = next((match.start() for match in controls.find(text) if match.start() < start < match.end()), start)
    return text[cut:]


def _first_behind(
    template: ChatTemplate, controls: ControlStrings, messages: Sequence[Mapping[str, Any]], words: str
) -> str | None:
    text = template.render(messages).text
    match = next(controls.find(text, text.rindex(words) + len(words)), None)
    return None if match is None else match[0]


def _check_marked(template: ChatTemplate, messages: Sequence[Mapping[str, Any]], stop_token: str) -> None:
    """Raise `InputError` where a template marks answers without the token that ends them."""
    if not template.has_marks:
        return
    rendered = template.render(messages, with_marks=True)
    end = rendered.text.index(stop_token, rendered.text.rindex(ANSWERED)) + len(stop_token)
    if not any(first < end <= last for first, last in rendered.marks):
        raise InputError(
            f"the chat template's {{% generation %}} leaves out {stop_token!r}, which ends an answer, so a model "
            f"trained with it would never stop; set stop_token: {stop_token!r}, or mend the template"
        )


def _unless_refused(
    template: ChatTemplate, controls: ControlStrings, messages: Sequence[Mapping[str, Any]], words: str
) -> Iterator[str]:
    try:
        found = _first_behind(template, controls, messages, words)
    except ChatRefused:  # one that takes a single turn only
        return
    if found is not None:
        yield found


def _of_tool_calls(
    template: ChatTemplate, controls: ControlStrings, prompt: Sequence[Mapping[str, Any]], known: Sequence[str]
) -> list[str]:
    """The token that ends a turn which calls a tool, where it is none of the known ones.

    Behind a call there may be tokens that close the call and not the turn, so it is the last one that counts.
    """
    try:
        text = template.render([*prompt, SMALL_CALL]).text
    except ChatRefused:
        return []
    if ANSWERED not in text:
        return []
    behind = [match[0] for match in controls.find(text, text.rindex(ANSWERED) + len(ANSWERED))]
    return [] if not behind or set(behind) & set(known) else behind[-1:]
