"""How each endpoint writes an answer: OpenAI's chat and text shapes, whole and in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from serving.engine.protocol import TokenEvent


@dataclass
class Answer:
    """One choice, finished."""

    text: str
    finish_reason: str
    token_ids: list[int]
    logprobs: list[float]
    version: int  # of the weights that made its last token


@dataclass(frozen=True)
class Piece:
    """A stretch of one answer's text."""

    text: str
    event: TokenEvent | None  # None: no token of its own, only text that was held back
    finish_reason: str | None


class Shape(ABC):
    """How an endpoint writes a choice."""

    id_prefix: str
    kind: str
    chunk_kind: str
    opening: Mapping[str, str] | None  # the first delta of a stream

    def __init__(self, with_logprobs: bool, tokenizer: Any) -> None:
        self.with_logprobs, self._tokenizer = with_logprobs, tokenizer

    @abstractmethod
    def choice(self, answer: Answer) -> dict[str, Any]:
        """A finished choice."""

    @abstractmethod
    def delta(self, piece: Piece) -> dict[str, Any]:
        """A part of a choice in a stream."""

    def _tokens(self, token_ids: Sequence[int]) -> list[str]:
        return [self._tokenizer.decode([token_id]) for token_id in token_ids]


class ChatShape(Shape):
    id_prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"
    opening = MappingProxyType({"role": "assistant", "content": ""})

    def choice(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text}
        return {"message": message, "logprobs": self._logprobs(answer.token_ids, answer.logprobs)}

    def delta(self, piece: Piece) -> dict[str, Any]:
        ids, logprobs = ([piece.event.token_id], [piece.event.logprob]) if piece.event is not None else ([], [])
        return {"delta": {"content": piece.text} if piece.text else {}, "logprobs": self._logprobs(ids, logprobs)}

    def _logprobs(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        entries = zip(self._tokens(token_ids), logprobs, strict=True)
        return {
            "content": [{"token": t, "logprob": p, "bytes": list(t.encode()), "top_logprobs": []} for t, p in entries]
        }


class TextShape(Shape):
    id_prefix, kind, chunk_kind, opening = "cmpl", "text_completion", "text_completion", None

    def choice(self, answer: Answer) -> dict[str, Any]:
        return {"text": answer.text, "logprobs": self._logprobs(answer.token_ids, answer.logprobs)}

    def delta(self, piece: Piece) -> dict[str, Any]:
        ids, logprobs = ([piece.event.token_id], [piece.event.logprob]) if piece.event is not None else ([], [])
        return {"text": piece.text, "logprobs": self._logprobs(ids, logprobs)}

    def _logprobs(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        return {"tokens": self._tokens(token_ids), "token_logprobs": list(logprobs), "top_logprobs": None}


def usage_of(prompt_tokens: int, answer_tokens: int) -> dict[str, int]:
    """Token counts."""
    total = prompt_tokens + answer_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens, "total_tokens": total}


def version_mark(version: int) -> str:
    """The `system_fingerprint`: which weights made the answer."""
    return f"policy-version-{version}"


def sse_event(content: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"
