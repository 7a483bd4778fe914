"""Makes checked messages of what files hold: OpenAI's form, ShareGPT's, and the mixtures of both that people have.

A message is a mapping with a role (`role` or `from`) and a content (`content`, `value` or `text`). What is left out or
null is absent. `parse_messages` takes messages in any order; `turns.py` says which orders make a conversation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from cluster.contracts.records import Message

Role = Literal["system", "developer", "user", "assistant", "tool"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", "claude"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "ipython"), "tool"),
}  # type: ignore[dict-item]
_CALL_ROLES = ("function_call", "tool_call")  # ShareGPT's name for a turn that is a call: JSON in place of text
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")


class BadRow(ValueError):
    """A row that is not what it should be; the message is a short fixed word, counted in reports."""


def parse_messages(values: Sequence[Any]) -> list[Message]:
    """Checked messages, in whatever order.

    Empty system messages are left out, and a ShareGPT call joins the assistant's words before it, since both are one
    turn. Raises `BadRow` with one of: bad_message, bad_role, null_content, empty_content (of a user), empty_answer,
    bad_content (neither text nor parts), other_modality (images, sound), bad_tool_call, bad_reasoning, bad_weight.
    """
    if not isinstance(values, list | tuple):
        raise BadRow("bad_message")
    messages: list[Message] = []
    for value in values:
        message = _parse_message(value)
        if message is None:
            continue
        before = messages[-1] if messages else None
        if before is not None and before["role"] == "assistant" and _is_call(value):
            before["tool_calls"] = [*before.get("tool_calls", []), *message["tool_calls"]]
        else:
            messages.append(message)
    return messages


def parse_tools(value: Any) -> list[dict[str, Any]]:
    """JSON Schemas of functions, from a list of them or of bare functions, or from such a list as a JSON string.

    Raises `BadRow` (bad_tools).
    """
    value = _decoded(value, "bad_tools")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise BadRow("bad_tools")
    tools = []
    for item in value:
        tool = _decoded(item, "bad_tools")
        if not isinstance(tool, Mapping):
            raise BadRow("bad_tools")
        is_bare = "function" not in tool and "name" in tool
        tools.append({"type": "function", "function": dict(tool)} if is_bare else dict(tool))
    return tools


def text_content(value: Any) -> tuple[str | None, str]:
    """(content, thoughts) of a content that is text, null, or a list of parts, whose texts are joined.

    Raises `BadRow`: bad_content, other_modality.
    """
    if value is None or isinstance(value, str):
        return value, ""
    if not isinstance(value, list):
        raise BadRow("bad_content")
    texts: list[str] = []
    thoughts: list[str] = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            raise BadRow("bad_content")
        kind = part.get("type") or "text"
        if kind in _TEXT_PARTS:
            into, text = texts, part.get("text")
        elif kind == "refusal":
            into, text = texts, part.get("refusal")
        elif kind in _THOUGHT_PARTS:
            into, text = thoughts, part.get(kind) or part.get("text")
        else:
            raise BadRow("other_modality")
        if not isinstance(text, str):
            raise BadRow("bad_content")
        into.append(text)
    return ("".join(texts) if texts else None), "".join(thoughts)


def _parse_message(value: Any) -> Message | None:
    """The message; None for an empty one of the system."""
    if not isinstance(value, Mapping):
        raise BadRow("bad_message")
    role = _role(value)
    key = next((key for key in ("content", "value", "text") if key in value), "content")
    if _is_call(value):
        calls = _tool_calls(_decoded(value.get(key), "bad_tool_call"))
        return _weighted(Message(role="assistant", content="", tool_calls=calls), value)
    content, thoughts = text_content(value.get(key))
    if role in ("system", "developer"):
        return Message(role=role, content=content) if content and content.strip() else None
    if role == "tool":
        return _tool_result(value, content)
    if role == "user":
        if content is None:
            raise BadRow("null_content")
        if not content.strip():
            raise BadRow("empty_content")
        return Message(role=role, content=content)
    return _answer(value, content, thoughts)


def _answer(value: Mapping[str, Any], content: str | None, thoughts: str) -> Message:
    calls = _calls_of(value)
    if not calls and content is None:
        raise BadRow("null_content")
    if not calls and not (content or "").strip():
        raise BadRow("empty_answer")
    message = Message(role="assistant", content=content or "")
    reasoning = next((v for k in ("reasoning_content", "reasoning", "thinking") if (v := value.get(k))), thoughts)
    if not isinstance(reasoning, str):
        raise BadRow("bad_reasoning")
    if reasoning.strip():
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return _weighted(message, value)


def _weighted(message: Message, value: Mapping[str, Any]) -> Message:
    """The message with its share of the loss: `weight`, or `train` (also `training`), which is true or false."""
    said = next((value[key] for key in ("weight", "train", "training") if value.get(key) is not None), 1)
    if (weight := parse_weight(said)) != 1:
        message["weight"] = weight
    return message


def _tool_result(value: Mapping[str, Any], content: str | None) -> Message:
    if content is None:
        raise BadRow("null_content")
    message = Message(role="tool", content=content)
    if isinstance(identifier := value.get("tool_call_id"), str):
        message["tool_call_id"] = identifier
    if isinstance(name := value.get("name"), str):
        message["name"] = name
    return message


def _role(value: Mapping[str, Any]) -> Role:
    said = value.get("role") or value.get("from")
    role = _ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        raise BadRow("bad_role")
    return role


def _is_call(value: Any) -> bool:
    return (value.get("role") or value.get("from")) in _CALL_ROLES


def _calls_of(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = value.get("tool_calls") or value.get("function_call")  # the latter is of OpenAI's old API
    return _tool_calls(_decoded(calls, "bad_tool_call")) if calls else []


def _tool_calls(value: Any) -> list[dict[str, Any]]:
    """Calls in the form {id, type, function: {name, arguments}}, whose arguments are a mapping."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise BadRow("bad_tool_call")
    calls = []
    for call in value:
        if not isinstance(call, Mapping):
            raise BadRow("bad_tool_call")
        function = call.get("function") or call
        if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str) or not name:
            raise BadRow("bad_tool_call")
        arguments = function.get("arguments", function.get("parameters"))
        arguments = {} if arguments in (None, "") else _decoded(arguments, "bad_tool_call")
        if not isinstance(arguments, Mapping):
            raise BadRow("bad_tool_call")
        parsed: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
        if isinstance(identifier := call.get("id"), str):
            parsed["id"] = identifier
        calls.append(parsed)
    return calls


def parse_weight(value: Any) -> float:
    """A weight of 0 or more. Raises `BadRow` (bad_weight)."""
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadRow("bad_weight")
    return float(value)


def _decoded(value: Any, reason: str) -> Any:
    """What a JSON string holds; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BadRow(reason) from error
