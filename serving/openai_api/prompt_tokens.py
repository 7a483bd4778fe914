"""From messages to token ids. The chat template's control tokens are real ones; what a user typed is text.

Hugging Face tokenizers turn `<|im_end|>` typed by a user into the control token. That would end the user's turn and let
him write the next one himself. Here control strings in message contents are hidden from the template, and put back only
after the template's own have been cut out. The text between those is encoded with control tokens off. Messages without
control strings are encoded as always.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from cluster.contracts.errors import InputError
from cluster.contracts.records import Message


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text that is not to be trusted: nothing in it becomes a control token."""
    ids: list[int] = tokenizer(text, add_special_tokens=True, split_special_tokens=True)["input_ids"]
    return ids


def encode_chat(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
    """Token ids of a conversation under the tokenizer's chat template.

    Raises `InputError` where there is no template or it refuses the conversation.
    """
    if tokenizer.chat_template is None:
        raise InputError("this model's tokenizer has no chat template; use /v1/completions")
    controls = re.compile("|".join(re.escape(token) for token in _control_tokens(tokenizer)))
    hidden: dict[str, str] = {}

    def hide(match: re.Match[str]) -> str:
        # A random name can't be guessed, so no message can contain one.
        return hidden.setdefault(match[0], f"\ue000{uuid.uuid4().hex}\ue001")

    disguised = [{**message, "content": controls.sub(hide, message["content"])} for message in messages]
    try:
        rendered: str = tokenizer.apply_chat_template(
            disguised, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise InputError(f"the model's chat template refuses these messages: {error}") from error

    if not hidden:
        plain: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return plain
    ids: list[int] = []
    position = 0
    for match in controls.finditer(rendered):
        ids += _plain(tokenizer, rendered[position : match.start()], hidden)
        ids.append(tokenizer.convert_tokens_to_ids(match[0]))
        position = match.end()
    return ids + _plain(tokenizer, rendered[position:], hidden)


def encode_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a finished conversation, up to its last end-of-turn token: the form rollouts are scored in."""
    ids = encode_chat(tokenizer, messages, add_generation_prompt=False)
    end = tokenizer.eos_token_id
    return ids[: len(ids) - ids[::-1].index(end)] if end in ids else ids


def _plain(tokenizer: Any, text: str, hidden: dict[str, str]) -> list[int]:
    for control, name in hidden.items():
        text = text.replace(name, control)
    if not text:
        return []
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _control_tokens(tokenizer: Any) -> list[str]:
    """Longest first, so that one that begins another does not win over it."""
    controls = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if not controls:
        raise InputError("this model's tokenizer has no control tokens, so turns can't be told from text")
    return sorted(controls, key=lambda token: (-len(token), token))
