"""The rows and requests that more than one room handles, and the rule by which prompts are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.contracts.hashing import is_prompt_drawn

ROW_BITS = 31  # of the 63 of a doc_id, for the row in a part; the other 32 are the part's number in the shard table


class Message(TypedDict):
    """One turn of a conversation, in the form of OpenAI's API."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    reasoning_content: NotRequired[str]
    """What the assistant thought before it answered."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """The functions that the assistant calls; `arguments` are a mapping."""
    tool_call_id: NotRequired[str]
    """Of a tool's turn: the call that it answers."""
    name: NotRequired[str]
    """Of a tool's turn: the function that was called."""
    weight: NotRequired[float]
    """0: nothing is learned from this turn of the assistant."""


class Conversation(TypedDict):
    """Messages in order, and what belongs to all of them."""

    messages: list[Message]
    tools: NotRequired[list[dict[str, Any]]]
    """JSON Schemas of the functions that the assistant may call."""
    weight: NotRequired[float]
    source: NotRequired[str]
    """The name of the set that the row is of."""
    topic: NotRequired[str]


@dataclass(frozen=True)
class Quarantined:
    """A record that could not be read: where it is, why, and what was seen. None is lost without one of these."""

    uri: str
    offset: int  # where in the file: a byte (WARC, text) or a row's number (row formats); -1 for the whole file
    reason: str  # a short fixed word, which reports count: "bad_json", "truncated_gz"
    detail: str = ""
    url: str | None = None  # what the page was fetched from, if that is known


QUARANTINE_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("url", pa.string()),
    ]
)


def doc_id(shard: int, row: int) -> int:
    """The id of a document, in 63 bits: the number of its part in the shard table, and its row in the part.

    Raises `ValueError` for numbers that don't fit.
    """
    if not (0 <= shard < 1 << 32 and 0 <= row < 1 << ROW_BITS):
        raise ValueError(f"shard {shard} or row {row} does not fit a doc_id")
    return shard << ROW_BITS | row


def shard_and_row(identifier: int) -> tuple[int, int]:
    """(number of the part, row) of the document with an id: the inverse of `doc_id`."""
    return identifier >> ROW_BITS, identifier & (1 << ROW_BITS) - 1


def is_heldout(prompt: str, *, fraction: float, seed: int = 0) -> bool:
    """Whether a prompt is on the held-out side of a split, to which the given `fraction` of all prompts belongs.

    It depends on the prompt's own text alone, without case and white space. So all stages (SFT, preferences, PPO,
    evaluation) agree without passing lists, and no prompt is on both sides.
    """
    normalised = " ".join(prompt.casefold().split())
    return is_prompt_drawn(normalised, fraction=fraction, seed=seed)


@dataclass(frozen=True)
class SamplingParams:
    """How answers are sampled. At temperature 0 the likeliest token is taken."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None  # with one, the answer depends on nothing but the weights; None: the engine draws one


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt, to be answered once."""

    prompt_ids: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True)
class Rollout:
    """A sampled answer, exactly as the engine made it: token ids, never text that would be tokenised again.

    P and A are the lengths of prompt and answer in tokens. The answer includes its end-of-turn token, if it has one.
    """

    prompt_ids_P: npt.NDArray[np.int32]
    answer_ids_A: npt.NDArray[np.int32]
    logprobs_A: npt.NDArray[np.float32]  # natural log of each token's probability, at the sampling temperature
    versions_A: npt.NDArray[np.int32]  # the version of the policy that made each token
    finish_reason: Literal["stop", "length"]


class RolloutClient(Protocol):
    """What online RL needs from servers. The training room is handed one and never imports serving. Picklable."""

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """The answers, in the order of the requests. Blocks until all are there."""

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[float]:
        """The reward of each conversation, given as the token ids of prompt and answer. Blocks until all are there."""

    def publish(self, version: int, state: dict[str, Any]) -> None:
        """Make `state` (name -> CPU tensor) version `version` of the policy's weights on every replica.

        Returns when all live replicas answer with that version. Raises if one does not in time.
        """


class AnswerClient(Protocol):
    """What stages that let finished models answer need from servers. Safe to call from several threads."""

    def generate(self, model_uri: str, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """The answers of the model in a directory, in the order of the requests. Blocks until all are there.

        Requests that bring seeds get the same answers whenever they are sent together. An answer ends at the model's
        own end-of-answer tokens too. Raises `InputError` for a request that can't be answered.
        """

    def max_model_len(self, model_uri: str) -> int:
        """The most tokens that a prompt of this model and its answer may have together."""
