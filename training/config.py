"""What the settings of several training stages share; each stage's own are in its folder's `config.py`.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cluster.contracts.config import InputOf, Resources, WorkerGroup

Tracker = Literal["tensorboard", "wandb", "mlflow"]
Fraction = Annotated[float, Field(ge=0, le=1)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""What a spec calls one of several models: letters, digits, `_` and `-`."""
CAUSAL_MODEL = InputOf(model="policy")
"""Marks an input as any causal model: of pretrain, sft, dpo, ppo, a kind of another package, or a directory."""
SCORING_MODEL = InputOf(model="reward")
"""Marks an input as any reward model."""


class ReplicaGroup(Resources):
    """The replicas of one server; the resources are those of one replica."""

    num_replicas: Annotated[int, Field(ge=1)] = 1
    """Copies of the model, each a process with the resources named here."""

    max_batch_size: Annotated[int, Field(ge=1)] = 64
    """Most sequences that one forward pass takes together."""

    max_batch_tokens: Annotated[int, Field(ge=64)] = 32_768
    """Most tokens of one batch, padding included. It is the size of the policy's KV cache, so memory grows with it."""


def batch_conflicts(
    global_batch_size: int, micro_batch_size: int | None, workers: WorkerGroup
) -> Iterator[tuple[str, str]]:
    """What a stage's `conflicts` says where its global batch can't be dealt out evenly.

    The rule, for a first run and for a resume with another number of workers: `num_workers` divides the global
    batch, and `micro_batch_size` a worker's share of it.
    """
    share, rest = divmod(global_batch_size, workers.num_workers)
    if rest:
        yield (
            "global_batch_size",
            f"is {global_batch_size} and can't be dealt out to workers.num_workers = {workers.num_workers}; numbers of "
            f"workers that it can: {_divisors(global_batch_size)}",
        )
    elif micro_batch_size and share % micro_batch_size:
        yield (
            "micro_batch_size",
            f"is {micro_batch_size} and doesn't divide the {share} rows that each of {workers.num_workers} workers "
            f"has of global_batch_size {global_batch_size}; set it to one of {_divisors(share)}, or leave it out",
        )


def _divisors(number: int) -> str:
    """All divisors, as people read them: "1, 2, 4"."""
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
