"""The client that stages let models answer with: servers under Ray Serve, or an engine in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from cluster.contracts.artifacts import StageContext
from cluster.contracts.records import AnswerClient
from serving.config import ServerConfig
from training.config import ReplicaGroup
from training.launch.workers import Launcher, run_in_process


@contextmanager
def answer_client(
    group: ReplicaGroup,
    dtype: Literal["auto", "float32", "bfloat16"],
    context: StageContext,
    launch: Launcher,
) -> Iterator[AnswerClient]:
    """A client for as long as the block runs: to `group`'s replicas, or of this process if `launch` needs no Ray."""
    config = ServerConfig(**group.model_dump(), dtype=dtype)
    if launch is run_in_process:
        from serving.answers import AnswerEngine

        yield AnswerEngine(config)
        return
    from serving.rollout_client import answer_servers

    context.progress.note("starting the servers that answer")
    with answer_servers(config) as client:
        yield client
