"""Which order of messages makes a conversation, what can be mended of others, and which rows are prompts alone.

A conversation begins with what the system says, if anything; then the user speaks and the assistant answers, in turn.
Behind an assistant's turn there may be results of tools, which the assistant answers. It ends with the assistant.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.contracts.records import Message
from training.conversations.config import Mend
from training.conversations.messages import BadRow

_SYSTEM = ("system", "developer")
_BETWEEN = "\n\n"  # what stands between two turns that are made one


@dataclass(frozen=True)
class Turns:
    """Messages in order, how they were mended, and whether they end with a prompt that nobody answered."""

    messages: list[Message]
    mended: tuple[Mend, ...]
    is_prompt: bool


def ordered_turns(messages: Sequence[Message], *, mend: Collection[Mend] = (), keep_prompts: bool = False) -> Turns:
    """Check the order of `messages`, after mending what `mend` names.

    - `merge_turns`: what one speaker says in several messages in a row becomes one message.
    - `drop_first_answers`: what the assistant says before the user speaks is left out.
    - `drop_last_prompts`: what the user says last, and nobody answers, is left out.

    `keep_prompts`: a row that ends with the user is a prompt instead of a fault. Raises `BadRow` with one of:
    missing_messages, no_user_turn, no_answer (nor any other word of the assistant), system_later, assistant_first,
    tool_without_call, not_alternating, user_at_end, tool_at_end.
    """
    rest = list(messages)
    mended: list[Mend] = []
    for kind, change in (("merge_turns", _merged), ("drop_first_answers", _from_user), ("drop_last_prompts", _to_end)):
        if kind in mend:
            changed = change(rest)
            if len(changed) != len(rest):
                mended.append(kind)  # type: ignore[arg-type]
            rest = changed
    if not rest:
        raise BadRow("missing_messages")
    roles = [message["role"] for message in rest]
    opening = next((place for place, role in enumerate(roles) if role not in _SYSTEM), len(roles))
    roles = roles[opening:]
    if "user" not in roles:
        raise BadRow("no_user_turn")
    if any(role in _SYSTEM for role in roles):
        raise BadRow("system_later")
    _check_order(roles, calls=[bool(message.get("tool_calls")) for message in rest[opening:]])
    is_prompt = roles[-1] == "user"
    if is_prompt and not keep_prompts:
        raise BadRow("user_at_end" if "assistant" in roles else "no_answer")
    if roles[-1] == "tool":
        raise BadRow("tool_at_end")
    return Turns(rest, tuple(mended), is_prompt)


def _check_order(roles: Sequence[str], calls: Sequence[bool]) -> None:
    before, called = "", False
    for role, calls_tools in zip(roles, calls, strict=True):
        if not before and role == "assistant":
            raise BadRow("assistant_first")
        if role == "tool" and before not in ("assistant", "tool"):
            raise BadRow("tool_without_call")
        follows = {"": ("user",), "user": ("assistant",), "tool": ("assistant", "tool")}.get(before)
        if follows is None:  # the assistant spoke: only a result answers a call
            follows = ("tool",) if called else ("user", "tool")
        if role not in follows:
            raise BadRow("not_alternating")
        before, called = role, calls_tools


def _merged(messages: Sequence[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        before = merged[-1] if merged else None
        if before is not None and _is_mergeable(before, message):
            merged[-1] = _joined(before, message)
        else:
            merged.append(message)
    return merged


def _is_mergeable(before: Message, message: Message) -> bool:
    """Results of tools stay apart, and so do turns of different weight and what follows a call."""
    return (
        message["role"] == before["role"] != "tool"
        and before.get("weight") == message.get("weight")
        and "tool_calls" not in before
    )


def _joined(before: Message, message: Message) -> Message:
    joined: Message = {**before, **message}
    joined["content"] = _BETWEEN.join(filter(None, (before["content"], message["content"])))
    thoughts = [m["reasoning_content"] for m in (before, message) if "reasoning_content" in m]
    if thoughts:
        joined["reasoning_content"] = _BETWEEN.join(thoughts)
    return joined


def _from_user(messages: Sequence[Message]) -> list[Message]:
    opening = [message for message in messages if message["role"] in _SYSTEM]
    first = next((n for n, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None or any(message["role"] in _SYSTEM for message in messages[first:]):
        return list(messages)
    return [*opening, *messages[first:]]


def _to_end(messages: Sequence[Message]) -> list[Message]:
    """Without the user's last words; as it is where the assistant never speaks, since that is a prompt."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "user":
        end -= 1
    return list(messages[:end]) if any(m["role"] == "assistant" for m in messages[:end]) else list(messages)
