"""Request bodies of the HTTP API, in OpenAI's shapes.

A setting that this server does not honour is refused, unless it has the value that means "off". To ignore it would look
like obeying it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.contracts.records import Message

MAX_STOP_STRINGS = 4
_OFF: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "top_logprobs": (None, 0),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
}
_IGNORED = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_off(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        body = {key: value for key, value in body.items() if key not in _IGNORED}
        for key in _OFF.keys() & body.keys() - cls.model_fields.keys():
            if body.pop(key) not in _OFF[key]:
                raise ValueError(f"{key!r} is not supported by this server; leave it out")
        return body


class StreamOptions(BaseModel):
    """What a stream carries beside the answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class _Sampling(_Body):
    model: str | None = None  # None: the policy
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int | None, Field(ge=0, lt=1 << 63)] = None
    n: Annotated[int, Field(ge=1)] = 1
    stop: list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_stop_is_a_list_of_one(cls, body: Any) -> Any:
        if isinstance(body, dict) and "stop" in body:
            stop = body["stop"]
            body = {**body, "stop": [] if stop is None else [stop] if isinstance(stop, str) else stop}
        return body

    @model_validator(mode="after")
    def _stops_make_sense(self) -> _Sampling:
        if len(self.stop) > MAX_STOP_STRINGS or not all(self.stop):
            raise ValueError(f"'stop' takes up to {MAX_STOP_STRINGS} strings, none of them empty")
        return self


class _TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn; content is text or a list of text parts."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str | list[_TextPart]
    name: str | None = None

    def message(self) -> Message:
        """The same, as the rest of Raymill has it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": content}


Messages = Annotated[list[ChatMessage], Field(min_length=1)]


class ChatCompletionRequest(_Sampling):
    """POST /v1/chat/completions"""

    messages: Messages
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool = False

    @property
    def answer_limit(self) -> int | None:
        """Longest answer in tokens; None where the request doesn't say."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(_Sampling):
    """POST /v1/completions; a prompt is text, several texts, or token ids."""

    prompt: str | list[str] | list[int]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: Annotated[int | None, Field(ge=0, le=0)] = None  # 0: of the sampled tokens; alternatives aren't kept

    @property
    def answer_limit(self) -> int | None:
        """Longest answer in tokens; None where the request doesn't say."""
        return self.max_tokens


class ScoreRequest(_Body):
    """POST /v1/score: one conversation in `messages`, or several in `conversations`."""

    model: str | None = None
    messages: Messages | None = None
    conversations: Annotated[list[Messages] | None, Field(min_length=1)] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ScoreRequest:
        if (self.messages is None) == (self.conversations is None):
            raise ValueError("give either 'messages' (one conversation) or 'conversations' (a list of them)")
        return self

    def all_conversations(self) -> list[list[Message]]:
        """What is to be scored."""
        conversations = self.conversations if self.conversations is not None else [self.messages or []]
        return [[turn.message() for turn in conversation] for conversation in conversations]
