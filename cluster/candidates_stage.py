"""The `candidates` stage: starts servers that answer from any model, and runs the stage with a client to them.

`training` and `serving` meet here alone: the stage knows only the protocol `AnswerClient`.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.answer_client import answer_client
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from training.candidates import stage
from training.candidates.config import CandidatesConfig
from training.launch.workers import Launcher, run_workers


def run(
    config: CandidatesConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """Answers of `inputs["models.NAME"]` to the prompts of `inputs["conversations"]`.

    With `run_in_process` for `launch` the models answer in this process, without Ray.
    """
    with answer_client(config.server, config.dtype, context, launch) as client:
        return stage.run(config, inputs, output, context, client)
