"""The `conversations` stage: reading and splitting from the training room, on the data room's tasks and filters.

`training` and `dataprep` meet here and in `conversation_cleaning.py` alone. The stage is handed a function that runs
its tasks and one that makes what cleans them, and knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.conversation_cleaning import cleaner_of
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

    cleaner_of(config)  # which refuses lists that can't be read, before any task starts
    return read_and_split(config, inputs, output, context, cleaner_of=cleaner_of, run_tasks=run_tasks)
