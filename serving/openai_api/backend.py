"""What the HTTP API stands on: the servers behind it, and how it was set up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster.contracts.records import GenerateRequest, Rollout
from serving.config import HttpLimits
from serving.engine.protocol import TokenEvent


class Backend(Protocol):
    """The servers behind the app. Methods raise `Overloaded` where they take no more."""

    async def max_model_len(self) -> int:
        """Longest prompt and answer together, tokens."""

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """Whole answers."""

    def stream(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """One answer, token by token. Closing it cancels the request."""

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Rewards of whole conversations."""


@dataclass(frozen=True)
class AppSettings:
    """What the app serves, and to whom."""

    policy_name: str
    reward_name: str | None  # None: no /v1/score
    key_digests: tuple[bytes, ...] = ()  # empty: anybody who can reach the port
    limits: HttpLimits = field(default_factory=HttpLimits)
