"""Turns conversations into token ids under a chat template, and tells which of the ids an assistant must produce.

Training and serving both use this and nothing else. The conversation is rendered whole and tokenised whole, so the ids
are those of transformers' `apply_chat_template`, wherever no message spells a control token; one that does stays text
(`control_strings.py`). The assistant's turns are ranges of characters first (`spans.py`) and tokens then.

Shape letter: T tokens of one conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.contracts.chat.control_strings import ControlStrings, EncodedText
from cluster.contracts.chat.rendering import ChatRefused, ChatTemplate, Rendering
from cluster.contracts.chat.spans import Span, TurnFinder
from cluster.contracts.chat.stop_tokens import TemplateFacts, read_template
from cluster.contracts.errors import InputError
from cluster.contracts.records import Message

STOP_TOKEN_KEY = "chat_ends_with"  # in tokenizer_config.json: a `stop_token` that was given in training
IGNORE_INDEX = -100  # a label that carries no loss, for torch and TRL alike


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids, and which of them an assistant must produce: its words and the token that ends its turn."""

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


class ChatEncoder:
    """Encodes conversations for one tokenizer.

    Making one is cheap; what a template is like is found out when it is first needed, by rendering small conversations.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat_template: str | Mapping[str, str] | None = None,
        stop_token: str | None = None,
    ) -> None:
        """`tokenizer` is a Hugging Face fast tokenizer.

        `chat_template` (Jinja) is taken instead of the tokenizer's own, and `stop_token` instead of the token that the
        template is found to end answers with; a model that was trained with a `stop_token` keeps it. Raises
        `InputError` where there is no template, the tokenizer has no control tokens, or `stop_token` is no token of it.
        """
        source = chat_template if chat_template is not None else tokenizer.chat_template
        if not source:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; give one with chat_template:, or "
                "have the model complete texts (/v1/completions)"
            )
        stop_token = stop_token or tokenizer.init_kwargs.get(STOP_TOKEN_KEY)
        if stop_token is not None and stop_token not in tokenizer.get_vocab():
            raise InputError(f"stop_token {stop_token!r} is no token of the tokenizer of {tokenizer.name_or_path!r}")
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, source)
        self._controls = ControlStrings(tokenizer)
        self.stop_token = stop_token  # None where the template says it
        self.template_is_given = chat_template is not None

    @cached_property
    def _facts(self) -> TemplateFacts:
        return read_template(self.template, self._controls, self.stop_token)

    @cached_property
    def _finder(self) -> TurnFinder:
        return TurnFinder(self.template, self._controls, self._facts)

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """The tokens that end an answer, the one that ends the last answer of a conversation first.

        Raises `InputError` for a template that writes no control token there.
        """
        return self._facts.stop_tokens

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The ids of `stop_tokens`; sampling stops at each of them."""
        return tuple(self.tokenizer.convert_tokens_to_ids(token) for token in self.stop_tokens)

    @property
    def end_of_turn_id(self) -> int:
        """The id of the token that ends the last answer of a conversation."""
        return self.stop_token_ids[0]

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> EncodedConversation:
        """Ids of a conversation, and the mask of what its assistant must produce, turns of weight 0 left out.

        Raises `ChatRefused` for a conversation that the template does not take, or in which the assistant's turns can't
        be told for certain; and `InputError` for a template that is of no use for training.
        """
        (encoded,) = self._encode_all([(messages, tools)], add_generation_prompt=add_generation_prompt)
        if isinstance(encoded, ChatRefused):
            raise encoded
        return encoded

    def encode_batch(
        self, conversations: Iterable[tuple[Sequence[Message], Sequence[Mapping[str, Any]] | None]]
    ) -> list[EncodedConversation | ChatRefused]:
        """`encode` of many (messages, tools) at once, which is faster; what it would raise is given in its place."""
        return self._encode_all(list(conversations))

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Ids of a conversation up to where the assistant is to speak. Raises `ChatRefused`, as `encode` does."""
        (ids,) = self.encode_prompts([(messages, tools)])
        if isinstance(ids, ChatRefused):
            raise ids
        return ids

    def encode_prompts(
        self, prompts: Iterable[tuple[Sequence[Message], Sequence[Mapping[str, Any]] | None]]
    ) -> list[list[int] | ChatRefused]:
        """`encode_prompt` of many (messages, tools) at once; what it would raise is given in its place."""
        found = self._encoded(
            [self._rendered(messages, tools, add_generation_prompt=True) for messages, tools in prompts]
        )
        return [item if isinstance(item, ChatRefused) else item.ids for item in found]

    def encode_finished(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Ids of a conversation up to the end of its last turn: the form rollouts are scored in."""
        (encoded,) = self._encoded([self._rendered(messages, tools, add_generation_prompt=False)])
        if isinstance(encoded, ChatRefused):
            raise encoded
        ids = encoded.ids
        last = max((place for place, token in enumerate(ids) if token in self.stop_token_ids), default=len(ids) - 1)
        return ids[: last + 1]

    def prompt_answer(
        self,
        prompt: Sequence[Message],
        answers: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[list[int], list[int]]:
        """(prompt ids, answer ids) of what follows on a prompt; the answer ends with the token that ends its turn.

        The two are what a policy is given and what it samples, so that reward models and DPO see sequences as rollouts
        have them. What a template writes behind the end of the turn (ChatML's line break) is left out. Of several
        messages in `answers` (calls of tools and what they gave) the answer is all from the first to the last turn.
        """
        (found,) = self.prompt_answers([(prompt, answers, tools)])
        if isinstance(found, ChatRefused):
            raise found
        return found

    def prompt_answers(
        self,
        rows: Iterable[tuple[Sequence[Message], Sequence[Message], Sequence[Mapping[str, Any]] | None]],
    ) -> list[tuple[list[int], list[int]] | ChatRefused]:
        """`prompt_answer` of many (prompt, answers, tools) at once; what it would raise is given in its place."""
        conversations = []
        for prompt, answers, tools in rows:
            silent = [Message(**{**message, "weight": 0.0}) for message in prompt]
            heard = [Message(**{**message, "weight": 1.0}) for message in answers]
            conversations.append(([*silent, *heard], tools))
        return [
            encoded if isinstance(encoded, ChatRefused) else _cut(encoded)
            for encoded in self._encode_all(conversations)
        ]

    def _encode_all(
        self,
        conversations: Sequence[tuple[Sequence[Message], Sequence[Mapping[str, Any]] | None]],
        *,
        add_generation_prompt: bool = False,
    ) -> list[EncodedConversation | ChatRefused]:
        rendered = [
            self._rendered_with_turns(messages, tools, add_generation_prompt=add_generation_prompt)
            for messages, tools in conversations
        ]
        texts = self._encoded([item if isinstance(item, ChatRefused) else item[0] for item in rendered])
        encoded: list[EncodedConversation | ChatRefused] = []
        for item, text in zip(rendered, texts, strict=True):
            if isinstance(item, ChatRefused):
                encoded.append(item)
            elif isinstance(text, ChatRefused):
                encoded.append(text)
            else:
                encoded.append(self._masked(text, item[1]))
        return encoded

    def _rendered_with_turns(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool,
    ) -> tuple[Rendering, list[list[Span]]] | ChatRefused:
        finder = self._finder
        hidden, hidden_tools = self._controls.hide(messages), self._controls.hide(tools)
        try:
            rendering = self.template.render(
                hidden, hidden_tools, add_generation_prompt=add_generation_prompt, with_marks=self.template.has_marks
            )
            return rendering, finder.turns(rendering, hidden, hidden_tools)
        except ChatRefused as refused:
            return refused

    def _rendered(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool,
    ) -> Rendering | ChatRefused:
        try:
            return self.template.render(
                self._controls.hide(messages),
                self._controls.hide(tools),
                add_generation_prompt=add_generation_prompt,
            )
        except ChatRefused as refused:
            return refused

    def _encoded(self, rendered: Sequence[Rendering | ChatRefused]) -> list[EncodedText | ChatRefused]:
        """The ids of what was rendered, in one call of the tokenizer; refusals stay in their places."""
        encoded = iter(self._controls.encode([item.text for item in rendered if isinstance(item, Rendering)]))
        return [next(encoded) if isinstance(item, Rendering) else item for item in rendered]

    def _masked(self, text: EncodedText, turns: Sequence[Sequence[Span]]) -> EncodedConversation | ChatRefused:
        mask = [False] * len(text.ids)
        for parts in turns:
            for start, end in parts:
                first, last = text.token_at(start), text.token_at(end - 1)
                mask[first : last + 1] = [True] * (last + 1 - first)
            if text.ids[last] not in self.stop_token_ids:
                return ChatRefused("no_end_of_turn", "the end of an answer is not a token of its own")
        return EncodedConversation(text.ids, mask)


def _cut(encoded: EncodedConversation) -> tuple[list[int], list[int]]:
    mask = encoded.assistant_mask_T
    first, last = mask.index(True), len(mask) - mask[::-1].index(True)
    return encoded.input_ids_T[:first], encoded.input_ids_T[first:last]
