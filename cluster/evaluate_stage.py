"""The `evaluate` stage: starts servers that answer where models have to, and runs the stage with a client to them.

`training` and `serving` meet here alone: the stage knows only the protocol `AnswerClient`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from cluster.answer_client import answer_client
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from training.evaluate import stage
from training.evaluate.config import EvaluateConfig
from training.launch.workers import Launcher, run_workers


def run(
    config: EvaluateConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """Figures of `inputs["models.NAME"]`; with `run_in_process` for `launch` the models answer without Ray."""
    answering = partial(answer_client, config.server, config.dtype, context, launch)
    return stage.run(config, inputs, output, context, answering=answering, launch=launch)
