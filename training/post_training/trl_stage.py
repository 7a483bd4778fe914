"""What the stages that TRL trains have in common: the shell around TRL's trainers.

TRL's trainers keep their losses and options. The shell proves that a DeepSpeed engine of the right ZeRO stage on the
right number of ranks does the training, commits checkpoints that all ranks agree on, judges and logs each step, and
writes the model as a plain Hugging Face directory.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cluster.contracts.artifacts import StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError, StageFailed
from training.checkpoint.store import CheckpointStore
from training.engine.deepspeed_engine import assert_engine, full_state_dict
from training.export import commit_result, committed_result
from training.finite_weights import bad_weights
from training.launch.workers import Launcher, Worker, WorkerFunction
from training.metrics.metrics_log import MetricsLog, open_stage_log
from training.metrics.trackers import check_trackers
from training.post_training.config import TrlConfig
from training.post_training.row_order import row_order
from training.post_training.trl_arguments import check_blocks
from training.post_training.trl_export import ModelForm, commit_training, committed_training, export_trained
from training.post_training.trl_job import Config, TrainedModel, TrlJob

if TYPE_CHECKING:
    from datasets import Dataset


def run_job(
    job: TrlJob[Config], train: WorkerFunction[TrlJob[Config], StageResult], context: StageContext, launch: Launcher
) -> StageResult:
    """Start `train` on the workers and mark what rank 0 gives back as the stage's result.

    A result that an earlier attempt left is given again, without training. Raises `InputError` for settings of the
    `trl` and `deepspeed` blocks that are not taken, and whatever `launch` raises.
    """
    finished = committed_result(job.output)
    store = CheckpointStore.of_stage(job.output)
    if finished is not None:
        store.clear()
        return finished
    check_trackers(job.config.trackers)
    check_blocks(job.config)
    result = commit_result(job.output, launch(train, job, job.config.workers, context, committed_steps=store.steps))
    store.clear()
    return result


def training_order(lengths: Sequence[int], job: TrlJob[Any], *, window_batches: int = 1) -> list[int]:
    """Numbers of the rows in the order of training (`row_order`), every epoch in turn, in whole global batches."""
    config: TrlConfig = job.config
    return row_order(
        lengths,
        epochs=config.epochs,
        global_batch_size=config.global_batch_size,
        seed=job.seed,
        window_batches=window_batches,
    )


def training_rows(rows: Sequence[Mapping[str, Any]], order: Sequence[int]) -> Dataset:
    """The rows in that order, as TRL takes them; each is held once, however often it is used."""
    from datasets import Dataset

    return Dataset.from_list([dict(row) for row in rows]).select(order)


def is_measured(config: TrlConfig, num_heldout_rows: int) -> bool:
    """Whether the held-out rows are measured while training goes on. Raises `InputError` where there are none to."""
    if config.eval_every_steps is not None and not num_heldout_rows:
        raise InputError("eval_every_steps is set, and nothing is held out to measure; set it to null")
    return config.eval_every_steps is not None


def heldout_rows(rows: Sequence[Mapping[str, Any]], config: TrlConfig) -> Dataset | None:
    """The rows that are measured while training goes on, as TRL takes them; None where that isn't asked for."""
    from datasets import Dataset

    return Dataset.from_list([dict(row) for row in rows]) if is_measured(config, len(rows)) else None


# ------------------------------------------------------------------------------------------------------ training


def train_once(
    new_trainer: Callable[[], Any],
    job: TrlJob[Any],
    worker: Worker,
    *,
    model_form: ModelForm,
    rows: Sequence[Sequence[int]],
) -> TrainedModel:
    """Train and export, unless an earlier attempt has and was lost after it; all ranks call it.

    When this returns, the model is committed at `job.output`, and the memory of training is free again: what is
    measured from here on can't cost the training. See `train_and_export` for `rows`.
    """
    trained = committed_training(job, worker)
    if trained is None:
        try:
            trained = train_and_export(new_trainer(), job, worker, model_form=model_form, rows=rows)
        finally:
            forget_deepspeed()  # a process may have further stages, also after one that failed
        commit_training(trained, job, worker)
    gc.collect()
    if worker.device.type == "cuda":
        torch.cuda.empty_cache()
    return trained


def train_and_export(
    trainer: Any, job: TrlJob[Any], worker: Worker, *, model_form: ModelForm, rows: Sequence[Sequence[int]]
) -> TrainedModel:
    """Train from the newest checkpoint or the start, then write the model to `job.output`; all ranks call it.

    By a few of `rows`, token ids of training rows, an export of adapters is held against the trained model.
    """
    from transformers import PrinterCallback

    config: TrlConfig = job.config
    store = CheckpointStore.of_stage(job.output, keep_best=int(config.keep_best))
    trainer.begin_stage(worker, store, seed=job.seed, zero_stage=job.config.zero_stage)
    first_step = trainer.restored.step if trainer.restored is not None else 0
    if _ends_early(trainer, config):  # and was killed between the end and the export
        trainer.train_dataset = trainer.train_dataset.select(range(first_step * config.global_batch_size))
    log = _open_log(job, worker, first_step + 1) if worker.is_main else None
    if log is not None:
        trainer.publish_log = log.publish
        worker.closing.callback(log.close_trackers)
    if len(trainer.train_dataset) <= job.config.global_batch_size:
        trainer.args.warmup_steps = 0  # of a single step, whose learning rate would be 0
    trainer.remove_callback(PrinterCallback)  # the log and the progress bar tell it all
    trainer.add_callback(_follower(trainer, job, worker, log))
    trainer.train(resume_from_checkpoint=str(trainer.resume_directory) if trainer.resume_directory else None)
    engine = assert_engine(trainer.model_wrapped, zero_stage=job.config.zero_stage, world_size=worker.world_size)
    if "train_loss" not in trainer.stage_state:
        raise StageFailed(f"all of the {trainer.state.global_step} steps were skipped, so nothing was trained")
    best: dict[str, float] = {}
    if config.keep_best and "best" in trainer.stage_state:
        best = trainer.stage_state["best"]
        trainer.load_best()
    check = None
    if job.config.lora is not None:
        check = model_form.exported_check(trainer.model_wrapped, job, worker, rows)
    state_dict = full_state_dict(trainer.model_wrapped)
    forget_deepspeed()
    files: list[WrittenFile] = []
    export: dict[str, Any] = {}
    if log is not None:
        files, export = export_trained(trainer.model, state_dict, job, worker, model_form, check)
        files.append(log.close())
    worker.barrier()
    return TrainedModel(engine, trainer.state.global_step, trainer.stage_state["train_loss"], best, export, files)


def _open_log(job: TrlJob[Any], worker: Worker, first_step: int) -> MetricsLog:
    """`metrics.jsonl` and the trackers, from `first_step` on; for rank 0."""
    return open_stage_log(
        job.config,
        job.config.trackers,
        stage=job.stage,
        output=job.output,
        scratch=worker.scratch,
        first_step=first_step,
        note=worker.progress.note,
    )


def forget_deepspeed() -> None:
    """Let transformers load models in one piece again."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _follower(trainer: Any, job: TrlJob[Any], worker: Worker, log: MetricsLog | None) -> Any:
    """A callback that checks the engine, judges each step and reports it."""
    from transformers import TrainerCallback

    class Follower(TrainerCallback):
        row: dict[str, Any]  # of a step whose measurement is still to come

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert_engine(trainer.model_wrapped, zero_stage=job.config.zero_stage, world_size=worker.world_size)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            figures = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
            if "eval_loss" in figures:
                self.row |= {**figures, "heldout_loss": figures["eval_loss"]}
                self._append()
            if "loss" not in figures:
                return
            step, loss = state.global_step, float(figures["loss"])
            self.row = {"step": step, **figures}
            trouble = _trouble(loss, figures["grad_norm"])
            if trouble is not None:
                self.row["events"] = [_pass_over(trouble, step, trainer, job, worker)]
            else:
                trainer.stage_state["train_loss"] = loss
            worker.progress.update(step, state.max_steps, "steps", loss=loss)
            if not control.should_evaluate:
                self._append()

        def _append(self) -> None:
            if log is not None:
                log.append(self.row)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
            _judge_measurement(metrics["eval_loss"], trainer, job, worker, control)

    return Follower()


def _judge_measurement(loss: float, trainer: Any, job: TrlJob[Any], worker: Worker, control: Any) -> None:
    """Keep the step if its held-out loss is the lowest so far; end training where the last ones all were higher."""
    config: TrlConfig = job.config
    kept, step = trainer.stage_state, trainer.state.global_step
    kept.update(heldout_loss=loss, measured=step)
    worker.progress.note(f"step {step}: held-out loss {loss:.4f}")
    if math.isfinite(loss) and loss < kept.get("best", {}).get("best_heldout_loss", math.inf):
        kept["best"] = {"best_step": step, "best_heldout_loss": loss}
        kept["without_gain"] = 0
        control.should_save = control.should_save or config.keep_best
        return
    kept["without_gain"] = kept.get("without_gain", 0) + 1
    if _ends_early(trainer, config):
        worker.progress.note(
            f"step {step}: no lower held-out loss in {kept['without_gain']} measurements; training ends"
        )
        control.should_training_stop = True


def _ends_early(trainer: Any, config: TrlConfig) -> bool:
    """Whether the last measurements, those before a resume included, all were higher than the lowest one."""
    patience = config.early_stopping_patience
    return patience is not None and trainer.stage_state.get("without_gain", 0) >= patience


def _trouble(loss: float, grad_norm: float) -> str | None:
    """What is wrong with a step; None where its loss and its gradients' norm are numbers."""
    if not math.isfinite(loss):
        return f"the training loss is {loss}"
    return None if math.isfinite(grad_norm) else f"the gradient's norm is {grad_norm}"


def _pass_over(trouble: str, step: int, trainer: Any, job: TrlJob[Any], worker: Worker) -> str:
    """Note a step that was not applied, where the settings let the run go on. Raises `StageFailed` where they don't.

    The engine has left the weights as they were (`guard_steps`).
    """
    config: TrlConfig = job.config
    events = trainer.stage_state.get("events", 0)
    advice = (
        f"a lower lr ({config.lr}), more warmup_fraction ({config.warmup_fraction}) or a smaller max_grad_norm "
        f"({config.max_grad_norm}) may do better"
    )
    if config.divergence.not_finite == "stop":
        raise StageFailed(
            f"{trouble} at step {step}; divergence.not_finite: skip leaves such batches out and goes on, and {advice}"
        )
    if not trainer.model_wrapped.optimizer.overflow:
        raise StageFailed(f"{trouble} at step {step}, whose gradients are numbers, so it can't be skipped; {advice}")
    if events >= config.divergence.max_events:
        raise StageFailed(f"{trouble} at step {step}, after {events} skipped batches (divergence.max_events); {advice}")
    trainer.stage_state["events"] = events + 1
    trainer._tr_loss.zero_()  # which the trainer takes off itself, and nan stays nan
    worker.progress.note(f"step {step}: {trouble}; the batch is skipped")
    return f"step {step}: {trouble}; skip"


# --------------------------------------------------------------------------------------------------- measurement


def check_weights(worker: Worker, model_directory: Path) -> None:
    """Raise `InputError` where the model to start from has weights that are nan or infinite. All ranks call it."""
    found = bad_weights(model_directory) if worker.local_rank == 0 else None
    if not worker.agree(found is None):
        raise InputError(f"the model to start from can't be trained: {found or 'its weights are nan or infinite'}")


def check_max_length(config: TrlConfig, model: Any) -> None:
    """Raise `InputError` if the model has no positions for the longest rows."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and config.max_length > positions:
        raise InputError(
            f"max_length is {config.max_length} and the model has {positions} positions (max_position_embeddings); "
            "lower max_length"
        )
