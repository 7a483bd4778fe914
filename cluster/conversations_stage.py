"""The `conversations` stage: reading and splitting from the training room, on the data room's tasks.

`training` and `dataprep` meet here alone. The stage knows a function that runs its tasks, and nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from dataprep.ray_tasks import AlreadyDone, run_shard_tasks
from training.conversations.config import ConversationsConfig
from training.conversations.stage import Task
from training.conversations.stage import run as read_and_split


def run(config: ConversationsConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Read, check and split the conversations of `config`; large inputs are read in tasks on Ray."""

    def run_tasks(task: Task, shards: Sequence[dict[str, Any]], num_done: int, num_rows: int) -> None:
        run_shard_tasks(
            task,
            shards,
            workers=config.workers,
            max_workers=config.max_workers,
            progress=context.progress,
            already_done=AlreadyDone(num_done, num_rows),
            log_directory=context.log_directory,
            unit="parts",
        )

    return read_and_split(config, inputs, output, context, run_tasks=run_tasks)
