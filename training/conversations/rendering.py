"""Turns conversations into token ids under a chat template, and tells which of the ids an assistant must produce.

Text in a message never makes a control token. The chat template is rendered with place-holders where the contents go.
What the template itself writes is then encoded with special tokens, and each content apart from it with special tokens
switched off. So `<|im_end|>` typed by a person is eight or so ordinary tokens.

Shape letter: T tokens of one conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cluster.contracts.errors import InputError
from cluster.contracts.records import Conversation, Message

IGNORE_INDEX = -100  # a label that carries no loss, for torch and TRL alike


_PLACE_HOLDER = re.compile("\ue000([0-9]+)\ue001")  # private-use characters: no template writes them


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids, and which of them an assistant must produce."""

    input_ids_T: list[int]
    assistant_mask_T: list[bool]

    def labels(self) -> list[int]:
        """[T] The ids to predict: those of answers, `IGNORE_INDEX` elsewhere."""
        return [
            token if answer else IGNORE_INDEX
            for token, answer in zip(self.input_ids_T, self.assistant_mask_T, strict=True)
        ]

    def truncated(self, max_length: int) -> EncodedConversation:
        """The first `max_length` tokens."""
        return EncodedConversation(self.input_ids_T[:max_length], self.assistant_mask_T[:max_length])


def encode_conversation(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> EncodedConversation:
    """Tokens of a conversation under the tokenizer's chat template, and the mask of its `{% generation %}` parts.

    `tokenizer` is a Hugging Face fast tokenizer. The ids are those of `apply_chat_template` wherever no
    content spells a control token and no pre-token spans a message's border. Raises `InputError` where the
    template is missing, does not mark what the assistant says, or leaves a message out.
    """
    # Imported here: reading and splitting conversations must not cost the import of transformers.
    from transformers.utils.chat_template_utils import render_jinja_template

    if not tokenizer.chat_template:
        raise InputError(f"the tokenizer of {tokenizer.name_or_path!r} has no chat template")
    held = [{"role": m["role"], "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
    rendered, spans = render_jinja_template(
        [held],
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt,
        **tokenizer.special_tokens_map,
    )
    text, answer_spans = rendered[0], spans[0]
    num_answers = sum(message["role"] == "assistant" for message in messages)
    if len(answer_spans) != num_answers or len(_PLACE_HOLDER.findall(text)) != len(messages):
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} must write every message once and mark what the "
            "assistant says with {% generation %}"
        )
    input_ids: list[int] = []
    mask: list[bool] = []
    for start, end, is_answer in _pieces(text, answer_spans):
        holder = _PLACE_HOLDER.fullmatch(text, start, end)
        if holder:
            content = messages[int(holder[1])]["content"]
            ids = tokenizer(content, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        else:
            ids = tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=False)["input_ids"]
        input_ids += ids
        mask += [is_answer] * len(ids)
    return EncodedConversation(input_ids, mask)


def encode_prompt_answer(tokenizer: Any, prompt: Sequence[Message], answer: Message) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids) of one answer; the answer ends with the token that ends its turn.

    The two are exactly what a policy is given and what it samples, so that reward models and DPO see sequences as
    rollouts have them. What a template writes after the end of the turn (ChatML's newline) is left out.
    """
    encoded = encode_conversation(tokenizer, [*prompt, answer])
    last = len(encoded.assistant_mask_T)
    while not encoded.assistant_mask_T[last - 1]:
        last -= 1
    first = last
    while first and encoded.assistant_mask_T[first - 1]:
        first -= 1
    return encoded.input_ids_T[:first], encoded.input_ids_T[first:last]


def _pieces(text: str, answer_spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """`text` cut at place-holders and at the borders of answers: (start, end, whether an answer)."""
    cuts = {0, len(text)}
    for match in _PLACE_HOLDER.finditer(text):
        cuts |= {match.start(), match.end()}
    for start, end in answer_spans:
        cuts |= {start, end}
    ordered = sorted(cuts)
    for start, end in pairwise(ordered):
        yield start, end, any(low <= start and end <= high for low, high in answer_spans)


def encode_rows(
    tokenizer: Any, conversations: Sequence[Conversation], max_length: int
) -> tuple[list[EncodedConversation], int]:
    """Encoded rows cut to `max_length`, and how many had no answer token left in it and were dropped."""
    encoded = [encode_conversation(tokenizer, c["messages"]).truncated(max_length) for c in conversations]
    rows = [row for row in encoded if any(row.assistant_mask_T)]
    return rows, len(encoded) - len(rows)
