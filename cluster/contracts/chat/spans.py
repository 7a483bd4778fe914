"""Where in a rendered conversation each of the assistant's turns begins and ends.

A turn begins where the prompt for it ends: the messages before it, rendered with the generation prompt. That is what a
server hands to the model, and the proof for a row is that its text begins with it. A template that drops earlier
thinking (Qwen3, DeepSeek-R1) writes earlier turns otherwise than it asked for them. There the turn begins behind what
is written of the generation prompt before its content. A turn ends with the last of the template's stop tokens before
the next message's content. Where contents begin is found by rendering the conversation once more with a sentinel before
each of them, and the proof is that without the sentinels the text is the same.

A template that marks what the assistant says by `{% generation %}` is believed, within these ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.contracts.chat.control_strings import SENTINEL_CLOSE, SENTINEL_OPEN, ControlStrings
from cluster.contracts.chat.rendering import ChatRefused, ChatTemplate, Rendering
from cluster.contracts.chat.stop_tokens import TemplateFacts

Span = tuple[int, int]
"""(start, end) in characters of a rendered text."""

_SENTINEL = re.compile(f"{SENTINEL_OPEN}([0-9]+){SENTINEL_CLOSE}")
_THINKING = "</think>"  # templates cut contents behind it


class TurnFinder:
    """Finds the assistant's turns in conversations under one template."""

    def __init__(self, template: ChatTemplate, controls: ControlStrings, facts: TemplateFacts) -> None:
        self._template = template
        self._controls = controls
        self._facts = facts
        self._stop = re.compile(
            "|".join(re.escape(token) for token in sorted(facts.stop_tokens, key=len, reverse=True))
        )

    def turns(
        self, rendering: Rendering, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None
    ) -> list[list[Span]]:
        """What of a rendered conversation carries loss: the parts of each assistant's turn whose weight is not 0.

        A turn has one part, but for templates that mark several. The last part ends with the token that ends the turn.
        `messages` and `tools` are those that were rendered, control strings hidden. Raises `ChatRefused` with one of
        these reasons: turn_not_found (no proof where a turn begins or ends), no_end_of_turn, unmarked_turn (marks leave
        out a turn or its end), answer_changed (the template writes something else than the answer), tool_call_dropped.
        """
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        trained = [i for i in answers if messages[i].get("weight", 1) != 0]
        if not trained:
            return []
        text = rendering.text
        if self._template.has_marks and len(rendering.marks) == len(answers):
            marks = dict(zip(answers, rendering.marks, strict=True))
            found = [[self._within_mark(text, marks[i])] for i in trained]
        else:
            frames = _Frames(self._template, self._facts, text, messages, tools)
            found = [[self._up_to_stop(text, frames.of(i))] for i in trained]
            if self._template.has_marks:
                found = [_marked_parts(rendering.marks, turn) for (turn,) in found]
        for i, parts in zip(trained, found, strict=True):
            _check_written(text, messages[i], parts)
        return found

    def _within_mark(self, text: str, mark: Span) -> Span:
        """A marked turn without what the prompt gives of it already, and without what follows its end."""
        start, end = mark
        reach = len(self._facts.generation_prompt)
        given = self._facts.behind_prompt(text, max(0, start - reach), min(end, start + reach))
        start = start if given is None else max(start, given)
        if self._facts.stop_is_given:
            follows = self._stop.search(text, end)
            if follows and not text[end : follows.start()].strip():
                end = follows.end()
        return self._up_to_stop(text, (start, end))

    def _up_to_stop(self, text: str, frame: Span) -> Span:
        stops = [match.end() for match in self._stop.finditer(text, *frame)]
        if not stops:
            raise ChatRefused(
                "no_end_of_turn", f"no {' or '.join(self._facts.stop_tokens)} ends a turn of the assistant's"
            )
        return frame[0], stops[-1]


class _Frames:
    """The ranges from where each assistant's turn begins to where the next message's content does."""

    def __init__(
        self,
        template: ChatTemplate,
        facts: TemplateFacts,
        text: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None,
    ) -> None:
        self._template, self._facts = template, facts
        self._text, self._messages, self._tools = text, messages, tools
        self._places: dict[int, int] | None = None

    def of(self, turn: int) -> Span:
        """(start, end) of the assistant's turn that is message number `turn`."""
        start = self._start(turn)
        return start, self._end(turn, start)

    def _start(self, turn: int) -> int:
        prompt = self._template.render(self._messages[:turn], self._tools, add_generation_prompt=True).text
        if self._text.startswith(prompt):
            return len(prompt)
        places = self._content_starts()
        before = max((place for i, place in places.items() if i < turn), default=0)
        start = self._facts.behind_prompt(self._text, before, places[turn]) if turn in places else None
        if start is None:
            raise ChatRefused("turn_not_found", "the chat template writes an answer where it is not asked for one")
        return start

    def _end(self, turn: int, start: int) -> int:
        if turn == len(self._messages) - 1:
            return len(self._text)
        later = [place for i, place in self._content_starts().items() if i > turn and place >= start]
        if later:
            return min(later)
        alone = self._template.render(self._messages[: turn + 1], self._tools).text
        if self._text.startswith(alone):
            return len(alone)
        raise ChatRefused("turn_not_found", "the chat template does not say where an answer ends")

    def _content_starts(self) -> dict[int, int]:
        """Message number -> where its content (or the name of its tool) begins in the text, if it is written at all.

        Empty where the template writes something else for contents that begin with a sentinel.
        """
        if self._places is None:
            marked = [_with_sentinel(number, message) for number, message in enumerate(self._messages)]
            try:
                text = self._template.render(marked, self._tools).text
            except ChatRefused:
                text = ""
            self._places = {}
            length = position = 0
            kept = []
            for match in _SENTINEL.finditer(text):
                length += match.start() - position
                kept.append(text[position : match.start()])
                position = match.end()
                self._places.setdefault(int(match[1]), length)
            kept.append(text[position:])
            if not self._text.startswith("".join(kept)):  # it may go on with a generation prompt
                self._places = {}
        return self._places


def _with_sentinel(number: int, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message with a sentinel where its content begins, or its first tool's name where it has no content."""
    sentinel = f"{SENTINEL_OPEN}{number}{SENTINEL_CLOSE}"
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, str) and content.strip():
        body = content.lstrip()  # templates that strip contents must find the same to strip
        return {**message, "content": content[: len(content) - len(body)] + sentinel + body}
    if calls:
        function = calls[0].get("function")
        named = {**(function or calls[0]), "name": sentinel + str((function or calls[0]).get("name"))}
        return {**message, "tool_calls": [{**calls[0], "function": named} if function else named, *calls[1:]]}
    return message


def _marked_parts(marks: Sequence[Span], turn: Span) -> list[Span]:
    """What of a turn is marked. Raises `ChatRefused` where its end is not."""
    parts = [(max(start, turn[0]), min(end, turn[1])) for start, end in marks if start < turn[1] and end > turn[0]]
    if not parts or parts[-1][1] != turn[1]:
        raise ChatRefused("unmarked_turn", "the chat template marks other parts than the assistant's turns")
    return parts


def _check_written(text: str, message: Mapping[str, Any], parts: Sequence[Span]) -> None:
    """Raise `ChatRefused` unless the answer stands in what is to be trained."""
    trained = text[parts[0][0] : parts[-1][1]]
    calls = message.get("tool_calls") or []
    content = message.get("content")
    if not calls and isinstance(content, str) and content.split(_THINKING)[-1].strip() not in trained:
        raise ChatRefused("answer_changed", "the chat template writes something else than the assistant's answer")
    for call in calls:
        name = (call.get("function") or call).get("name")
        if isinstance(name, str) and name not in trained:
            raise ChatRefused("tool_call_dropped", f"the chat template leaves out the call of the tool {name!r}")
