"""The pretrain stage, as the driver runs it. It checks what can be checked, then has every worker run `loop.train`."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from training.export import committed_result
from training.launch.workers import Launcher, run_workers
from training.metrics.trackers import check_trackers
from training.pretrain.config import PretrainConfig
from training.pretrain.job import (
    PretrainJob,
    check_checkpoint,
    check_model,
    checkpoint_store,
    engine_settings,
)
from training.pretrain.loop import train
from training.pretrain.open_data import check_data


def run(
    config: PretrainConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    finished = committed_result(output)
    if finished is not None:
        checkpoint_store(config, output).clear()
        return finished
    initial_model = inputs.get("initial_model")
    job = PretrainJob(
        config=config,
        tokens_uri=inputs["tokens"].uri,
        tokens_fingerprint=inputs["tokens"].manifest.fingerprint,
        tokenizer_uri=inputs["tokenizer"].uri,
        initial_model_uri=initial_model.uri if initial_model is not None else None,
        output=output,
        seed=config.seed if config.seed is not None else context.seed,
        stage=context.name,
    )
    tokenizer_size = check_model(job, context.scratch)
    check_data(job, inputs["tokens"], inputs["tokenizer"], tokenizer_size)
    check_trackers(config.trackers)
    engine_settings(config)  # a `deepspeed:` block that contradicts the stage is refused here
    store = checkpoint_store(config, job.output)
    check_checkpoint(store, job)
    return launch(train, job, config.workers, context, committed_steps=store.steps)
