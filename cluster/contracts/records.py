"""Row and request types that more than one room handles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.contracts.hashing import is_prompt_drawn

ROW_BITS = 31  # of a doc_id's 63: rows of a part; the other 32 number the part in the shard table


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(TypedDict):
    """A row of an SFT file."""

    messages: list[Message]
    topic: NotRequired[str]


@dataclass(frozen=True)
class Quarantined:
    """A record that could not be read: where it is, why, and what was seen. Never a lost row."""

    uri: str
    offset: int  # byte offset (WARC, text) or record number (row formats) in `uri`; -1 for the whole file
    reason: str  # a short fixed word, counted in reports: "bad_json", "truncated_gzip"
    detail: str = ""
    url: str | None = None  # what the page was fetched from, where that was known


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
    """The id of a document: its part's number in the shard table and its row in the part, in 63 bits."""
    if not (0 <= shard < 1 << 32 and 0 <= row < 1 << ROW_BITS):
        raise ValueError(f"shard {shard} or row {row} does not fit a doc_id")
    return shard << ROW_BITS | row


def shard_and_row(identifier: int) -> tuple[int, int]:
    """The inverse of `doc_id`."""
    return identifier >> ROW_BITS, identifier & (1 << ROW_BITS) - 1


def is_heldout(prompt: str, *, fraction: float, seed: int = 0) -> bool:
    """Whether a prompt belongs to the held-out side of a split.

    A pure function of the prompt (case and white space aside), so every stage, SFT, preferences, PPO and
    evaluation, agrees on it without passing lists, and no prompt is on both sides.
    """
    normalised = " ".join(prompt.casefold().split())
    return is_prompt_drawn(normalised, fraction=fraction, seed=seed)


@dataclass(frozen=True)
class SamplingParams:
    """How answers are sampled. Temperature 0 takes the likeliest token."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None  # None: drawn by the engine; else the answer depends on nothing but the weights


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt to be answered once."""

    prompt_ids: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True)
class Rollout:
    """One sampled answer, exactly as the engine made it: token ids, never text to be tokenised again.

    P and A are the prompt's and the answer's lengths in tokens; the answer includes its end-of-turn token
    where it has one.
    """

    prompt_ids_P: npt.NDArray[np.int32]
    answer_ids_A: npt.NDArray[np.int32]
    logprobs_A: npt.NDArray[np.float32]  # natural log, of the sampled token, under the sampling temperature
    versions_A: npt.NDArray[np.int32]  # the policy version that made each token
    finish_reason: Literal["stop", "length"]


class RolloutClient(Protocol):
    """What online RL needs from servers. Picklable; the training room is handed one and never imports serving."""

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """Answers in the order of the requests. Blocks."""

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[float]:
        """One reward per whole conversation (prompt and answer token ids). Blocks."""

    def publish(self, version: int, state: dict[str, Any]) -> None:
        """Make the policy's weights (name -> CPU tensor) version `version` on every replica.

        Returns once all live replicas answer with `version`. Raises if one does not in time.
        """
