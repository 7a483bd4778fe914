"""Keeps what people type text, also where it spells a control token, and turns rendered text into ids.

A tokenizer makes the control token of a `<|im_end|>` that a user typed, which would end his turn and let him write the
next one himself. So control strings are hidden in messages and tools before the template is applied, and what is found
in the rendered text afterwards is the template's own.

Text without hidden strings is given to the tokenizer as it is: its ids are those of `apply_chat_template`. Otherwise a
copy of the tokenizer encodes it, whose control tokens have random names. The template's own are replaced by these, the
typed ones are put back, and the copy takes them for text like any other: in one piece with what is around them, by the
same rules for spaces (metaspace with a first space, byte-level), whatever kind of tokenizer it is.
"""

from __future__ import annotations

import json
import re
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.errors import InputError

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters around the number of a hidden string
SENTINEL_OPEN, SENTINEL_CLOSE = "\ue002", "\ue003"  # around the number of a message: see spans.py
_HIDDEN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # byte fallback: what characters are made of, wherever it is listed
_BATCH = 1000  # texts that are tokenised in one call


@dataclass(frozen=True)
class EncodedText:
    """[T] ids of a rendered text, with where each token ends."""

    ids: list[int]
    _ends: list[int]  # [T] in the characters that were tokenised
    _shifts: tuple[tuple[int, int], ...] = ()  # (place in the rendered text, the same place in the tokenised one)

    def token_at(self, position: int) -> int:
        """The first token that reaches past a character of the rendered text; T behind the last one.

        Some tokens leave the space before them out of their range; it is theirs all the same.
        """
        if self._shifts:
            here, there = self._shifts[bisect_right(self._shifts, (position, 1 << 62)) - 1]
            position += there - here
        return bisect_right(self._ends, position)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that is no conversation and not to be trusted: nothing in it becomes a control token."""
    ids: list[int] = tokenizer(text, add_special_tokens=True, split_special_tokens=True)["input_ids"]
    return ids


class ControlStrings:
    """The control strings of a tokenizer: the texts of its special added tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises `InputError` for a tokenizer without control tokens, and for one that is not a fast one."""
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(f"the tokenizer of {tokenizer.name_or_path!r} has no tokenizer.json (it is no fast one)")
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.ids: dict[str, int] = {
            token.content: index
            for index, token in added.items()
            if token.special and not _BYTE.fullmatch(token.content)
        }
        if not self.ids:
            raise InputError("this model's tokenizer has no control tokens, so turns can't be told from text")
        # Longest first, so that one that begins another does not win over it.
        self._tokens = sorted(self.ids, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, self._tokens)))
        # Our own private-use characters are hidden too, so that nobody can type a hidden string.
        self._hideable = [*self._tokens, _OPEN, _CLOSE, SENTINEL_OPEN, SENTINEL_CLOSE]
        self._numbers = {token: f"{_OPEN}{number}{_CLOSE}" for number, token in enumerate(self._hideable)}
        self._to_hide = re.compile("|".join(map(re.escape, self._hideable)))
        # Unknown characters become this one, and nobody can do harm with it.
        self._counted = set(self.ids.values()) - {tokenizer.unk_token_id}

    def hide(self, value: Any) -> Any:
        """`value` (text, or lists and mappings of it, keys too) with place-holders for all control strings."""
        if isinstance(value, str):
            return self._to_hide.sub(lambda match: self._numbers[match[0]], value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def find(self, text: str, start: int = 0, end: int | None = None) -> Iterator[re.Match[str]]:
        """The template's own control tokens in a rendered text, in order."""
        return self._pattern.finditer(text, start, len(text) if end is None else end)

    def encode(self, texts: Sequence[str]) -> list[EncodedText | ChatRefused]:
        """The ids of rendered texts, in which hidden strings become plain text again.

        A text is refused (control_token) if something else in it than the template's own became a control token.
        """
        encoded: list[EncodedText | ChatRefused] = []
        for first in range(0, len(texts), _BATCH):
            batch = texts[first : first + _BATCH]
            found = self._tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
            for text, encoding in zip(batch, found.encodings, strict=True):
                if _OPEN in text or self._num_control(encoding.ids) > self._num_written(text):
                    encoded.append(self._encode_by_alias(text))
                else:
                    encoded.append(EncodedText(encoding.ids, [end for _, end in encoding.offsets]))
        return encoded

    def _num_control(self, ids: Sequence[int]) -> int:
        return sum(map(self._counted.__contains__, ids))

    def _num_written(self, text: str) -> int:
        return sum(1 for _ in self._pattern.finditer(text))

    def _encode_by_alias(self, text: str) -> EncodedText | ChatRefused:
        backend, aliases, ids_of = self._aliased
        pieces: list[str] = []
        shifts = [(0, 0)]
        position = length = 0
        for match in re.finditer(f"{_HIDDEN.pattern}|{self._pattern.pattern}", text):
            piece = self._hideable[int(match[1])] if match[1] is not None else aliases[match[0]]
            pieces += [text[position : match.start()], piece]
            length += match.start() - position + len(piece)
            position = match.end()
            shifts.append((position, length))
        pieces.append(text[position:])
        encoding = backend.encode("".join(pieces), add_special_tokens=False)
        ids = [ids_of.get(index, index) for index in encoding.ids]
        if self._num_control(ids) > self._num_written(text):
            return ChatRefused("control_token", "a text in this conversation can't be kept from being a control token")
        return EncodedText(ids, [end for _, end in encoding.offsets], tuple(shifts))

    @cached_property
    def _aliased(self) -> tuple[Any, dict[str, str], dict[int, int]]:
        """The tokenizer with other names for its control tokens, these names, and its ids that are others."""
        from tokenizers import Tokenizer

        secret = uuid.uuid4().hex  # nobody can type a name that he can't guess
        aliases = {token: f"\ue004{secret}x{number}\ue005" for number, token in enumerate(self._tokens)}
        spec = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for token in spec["added_tokens"]:
            token["content"] = aliases.get(token["content"], token["content"]) if token["special"] else token["content"]
        model = spec["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {aliases.get(token, token): index for token, index in model["vocab"].items()}
        else:  # Unigram's: [piece, score]
            model["vocab"] = [[aliases.get(token, token), score] for token, score in model["vocab"]]
        if model.get("unk_token") is not None:
            model["unk_token"] = aliases.get(model["unk_token"], model["unk_token"])
        if model.get("merges"):  # none may end in a control token
            model["merges"] = [merge for merge in model["merges"] if _product(merge) not in aliases]
        spec.update(post_processor=None, truncation=None, padding=None)
        backend = Tokenizer.from_str(json.dumps(spec))
        ids_of: dict[int, int] = {}
        for index, token in self._tokenizer.added_tokens_decoder.items():
            name = aliases.get(token.content, token.content) if token.special else token.content
            alias_id = backend.token_to_id(name)
            if alias_id is not None:
                ids_of[alias_id] = index
        return backend, aliases, ids_of


def _product(merge: str | Sequence[str]) -> str:
    return merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)
