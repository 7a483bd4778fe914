"""What a rollout engine is, whatever runs inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from cluster.contracts.records import GenerateRequest, Rollout

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenEvent:
    """One token that one request got in one step."""

    request_id: int
    token_id: int
    logprob: float  # natural log, fp32, under the sampling temperature (under 1 where that is 0), before top-k/top-p
    version: int  # of the weights that made it
    finish_reason: FinishReason | None  # None: more follow


def rollout_of(request: GenerateRequest, events: Sequence[TokenEvent]) -> Rollout:
    """The whole answer that all of a request's events make."""
    finish_reason = events[-1].finish_reason
    assert finish_reason is not None
    return Rollout(
        prompt_ids_P=np.asarray(request.prompt_ids, dtype=np.int32),
        answer_ids_A=np.array([event.token_id for event in events], dtype=np.int32),
        logprobs_A=np.array([event.logprob for event in events], dtype=np.float32),
        versions_A=np.array([event.version for event in events], dtype=np.int32),
        finish_reason=finish_reason,
    )


@dataclass(frozen=True)
class EngineLoad:
    """How busy an engine is."""

    num_running: int  # rows of the decode batch
    num_waiting: int  # requests not yet, or no longer, in it
    batch_tokens: int  # KV positions the batch takes up, padding included
    max_batch_tokens: int


class Engine(Protocol):
    """Not thread-safe: one thread submits, steps and updates. `loop.EngineLoop` is that thread."""

    @property
    def version(self) -> int:
        """The version of the weights that the next step uses."""

    def submit(self, request: GenerateRequest) -> int:
        """Queue a request; returns its id. Raises `InputError` for one that can never be answered."""

    def cancel(self, request_id: int) -> None:
        """Forget a request, wherever it is; an unknown or finished one is no error."""

    def step(self) -> list[TokenEvent]:
        """Admit what fits and make one token for every live row. Empty when there is nothing to do."""

    def update_weights(self, version: int, state: Mapping[str, torch.Tensor]) -> None:
        """Take new weights between steps. Tokens already made stay; their keys and values do not.

        Raises `InputError`, with nothing changed, where names or shapes are not the model's.
        """

    def load(self) -> EngineLoad:
        """How busy the engine is."""
