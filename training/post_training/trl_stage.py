"""What the three TRL trainers have in common: DeepSpeed, checkpoints, resume, the log, and the export.

TRL's trainers keep their losses and options, and this is the shell around them. It builds their arguments, proves that
a DeepSpeed engine of the right ZeRO stage on the right number of ranks does the training, commits checkpoints that all
ranks agree on, and writes the model as a plain Hugging Face directory.

On CPUs, Accelerate has two traps. With `use_cpu` (or ACCELERATE_USE_CPU) it ignores the DeepSpeed config and runs DDP.
Without it, it finds no backend and takes every rank for a single process. `accelerate_sees_gloo` mends the second;
`check_distribution` and `assert_engine` refuse to train where either is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
import torch.distributed as dist

from cluster.contracts import storage
from cluster.contracts.artifacts import StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError, StageFailed
from training.checkpoint.store import CheckpointStore
from training.engine.deepspeed_config import deepspeed_config
from training.engine.deepspeed_engine import assert_engine, full_state_dict, load_deepspeed
from training.export import commit_result, committed_result, export_model
from training.finite_weights import bad_weights
from training.launch.workers import Launcher, Worker, WorkerFunction
from training.metrics.metrics_log import MetricsLog
from training.post_training.config import TrlConfig
from training.post_training.row_order import row_order

if TYPE_CHECKING:
    from datasets import Dataset

Config = TypeVar("Config", bound=TrlConfig)


@dataclass(frozen=True)
class TrlJob(Generic[Config]):
    """What each worker is told; `Config` is the stage's own settings."""

    config: Config
    model_uri: str
    output: str
    seed: int
    data_uri: str  # the artifact of conversations or preferences that is learned from


@dataclass(frozen=True)
class TrainedModel:
    """What `train_and_export` leaves: the figures of the training, and the files of the exported model."""

    engine: dict[str, Any]  # what the training engine was found to be at run time
    steps: int  # optimizer steps, those before a resume included
    train_loss: float  # of the last step
    files: list[WrittenFile]  # the model directory and the metrics log; empty on all ranks but 0


def run_job(
    job: TrlJob[Config], train: WorkerFunction[TrlJob[Config], StageResult], context: StageContext, launch: Launcher
) -> StageResult:
    """Start `train` on the workers and mark what rank 0 gives back as the stage's result.

    A result that an earlier attempt left is given again, without training. Raises whatever `launch` raises.
    """
    finished = committed_result(job.output)
    store = CheckpointStore.of_stage(job.output)
    if finished is not None:
        store.clear()
        return finished
    result = commit_result(job.output, launch(train, job, job.config.workers, context, committed_steps=store.steps))
    store.clear()
    return result


# ------------------------------------------------------------------------------------ arguments and distribution


def accelerate_sees_gloo() -> None:
    """Make Accelerate use the process group that is up, where it would see no backend on a CPU-only machine."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    prepare = PartialState._prepare_backend
    if getattr(prepare, "sees_gloo", False):
        return

    def prepare_backend(self: Any, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        backend, distributed_type = prepare(self, *arguments, **keywords)
        if backend is None and distributed_type == DistributedType.NO and dist.is_initialized():
            backend = "gloo"
        return backend, distributed_type

    prepare_backend.sees_gloo = True  # type: ignore[attr-defined]
    PartialState._prepare_backend = prepare_backend


def trainer_arguments(arguments_class: Any, job: TrlJob[Any], worker: Worker, **own: Any) -> Any:
    """The trainer's arguments: what the stages share, and the trainer's `own`.

    Must be made before the model is loaded: from here on, transformers loads a ZeRO-3 model partitioned.
    """
    config: TrlConfig = job.config
    load_deepspeed()
    accelerate_sees_gloo()
    micro_batch_size = config.micro_batch_size or config.global_batch_size // worker.world_size
    grad_accumulation_steps = config.global_batch_size // (micro_batch_size * worker.world_size)
    deepspeed = deepspeed_config(
        zero_stage=config.zero_stage,
        precision=config.precision,
        micro_batch_size=micro_batch_size,
        grad_accumulation_steps=grad_accumulation_steps,
        world_size=worker.world_size,
        gradient_clipping=config.max_grad_norm,
        lr=config.lr,
    )
    del deepspeed["optimizer"]  # the trainer makes it, with its own decay groups and schedule
    arguments = arguments_class(
        output_dir=str(worker.scratch / "trainer"),
        deepspeed=deepspeed,
        optim="adamw_torch_fused",
        learning_rate=config.lr,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(config.lr_schedule, config.lr_schedule),
        warmup_steps=config.warmup_fraction,  # below 1, transformers takes it as a share of all steps
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=1,  # the dataset already holds all epochs, in order
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=grad_accumulation_steps,
        train_sampling_strategy="sequential",
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=config.precision == "bf16",
        seed=job.seed,
        max_length=config.max_length,
        save_strategy="steps",
        save_steps=config.checkpoint_every_steps,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show the mean of earlier losses in place of a nan
        log_level="error",
        disable_tqdm=True,
        report_to=[],
        dataloader_pin_memory=worker.device.type == "cuda",
        **own,
    )
    check_distribution(arguments, worker)
    return arguments


def check_distribution(arguments: Any, worker: Worker) -> None:
    """Raise `StageFailed` unless Accelerate will use DeepSpeed on all ranks."""
    from accelerate.utils import DistributedType

    state = arguments.distributed_state
    if state.distributed_type != DistributedType.DEEPSPEED or state.num_processes != worker.world_size:
        raise StageFailed(
            f"Accelerate chose {state.distributed_type.value} on {state.num_processes} process(es) where DeepSpeed on "
            f"{worker.world_size} was asked for; unset ACCELERATE_USE_CPU and other ACCELERATE_ variables"
        )


def lora_config(config: TrlConfig, *, task_type: str, modules_to_save: Sequence[str] = ()) -> Any:
    """PEFT's config for the spec's `lora:`, or None."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        modules_to_save=list(modules_to_save) or None,
        task_type=task_type,
    )


def training_rows(
    rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], job: TrlJob[Any], *, window_batches: int = 1
) -> Dataset:
    """All rows in the order of training (`row_order`), every epoch in turn; `InputError` for less than one batch."""
    from datasets import Dataset

    config: TrlConfig = job.config
    order = row_order(
        lengths,
        epochs=config.epochs,
        global_batch_size=config.global_batch_size,
        seed=job.seed,
        window_batches=window_batches,
    )
    if not order:
        raise InputError(
            f"{len(rows)} training rows x {config.epochs} epochs are less than one global batch of "
            f"{config.global_batch_size}; lower global_batch_size or raise epochs"
        )
    return Dataset.from_list([dict(rows[row]) for row in order])


# ------------------------------------------------------------------------------------------------------ training


def train_and_export(trainer: Any, job: TrlJob[Any], worker: Worker, *, load: Callable[[Path], Any]) -> TrainedModel:
    """Train from the newest checkpoint or the start, then write the model to `job.output`; all ranks call it.

    `load` opens the model that training started from, in one piece.
    """
    from transformers import PrinterCallback

    store = CheckpointStore.of_stage(job.output)
    trainer.begin_stage(worker, store, seed=job.seed, zero_stage=job.config.zero_stage)
    first_step = trainer.restored.step if trainer.restored is not None else 0
    log = MetricsLog(job.output, worker.scratch, first_step=first_step + 1) if worker.is_main else None
    if log is not None:
        trainer.publish_log = log.publish
    trainer.remove_callback(PrinterCallback)  # the log and the progress bar tell it all
    trainer.add_callback(_follower(trainer, job, worker, log))
    trainer.train(resume_from_checkpoint=str(trainer.resume_directory) if trainer.resume_directory else None)
    engine = assert_engine(trainer.model_wrapped, zero_stage=job.config.zero_stage, world_size=worker.world_size)
    if "train_loss" not in trainer.stage_state:
        raise StageFailed(f"all of the {trainer.state.global_step} steps were skipped, so nothing was trained")
    state_dict = full_state_dict(trainer.model_wrapped)
    forget_deepspeed()
    files: list[WrittenFile] = []
    if log is not None:
        with storage.local_copy(job.model_uri, worker.scratch) as local:
            model = load(local)
        model = _with_weights(model, state_dict, trainer.model)
        files = export_model(
            model, model.state_dict(), tokenizer_uri=job.model_uri, output=job.output, scratch=worker.scratch
        )
        files.append(log.close())
    worker.barrier()
    return TrainedModel(engine, trainer.state.global_step, trainer.stage_state["train_loss"], files)


def forget_deepspeed() -> None:
    """Let transformers load models in one piece again."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _with_weights(model: Any, state_dict: Mapping[str, torch.Tensor], trained: Any) -> Any:
    """`model` with the trained weights, adapters merged. Raises `StageFailed` if they don't fit it."""
    adapters = getattr(trained, "peft_config", None)
    if adapters is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapters["default"])
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    lost = [name for name in missing if name not in tied]
    if lost or unexpected:
        raise StageFailed(f"the trained weights don't fit the model: missing {lost}, unexpected {list(unexpected)}")
    return model.merge_and_unload() if adapters is not None else model


def _follower(trainer: Any, job: TrlJob[Any], worker: Worker, log: MetricsLog | None) -> Any:
    """A callback that checks the engine, judges each step and reports it."""
    from transformers import TrainerCallback

    class Follower(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert_engine(trainer.model_wrapped, zero_stage=job.config.zero_stage, world_size=worker.world_size)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            step, loss = state.global_step, float(logs["loss"])
            figures = {name: value for name, value in logs.items() if isinstance(value, int | float)}
            row: dict[str, Any] = {"step": step, **figures}
            trouble = _trouble(loss, logs["grad_norm"])
            if trouble is not None:
                row["events"] = [_pass_over(trouble, step, trainer, job, worker)]
            else:
                trainer.stage_state["train_loss"] = loss
            if log is not None:
                log.append(row)
            worker.progress.update(step, state.max_steps, "steps", loss=loss)

    return Follower()


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
