"""The arguments of TRL's trainers, made of a stage's settings, and the proof that DeepSpeed will do the training.

On CPUs, Accelerate has two traps. With `use_cpu` (or ACCELERATE_USE_CPU) it ignores the DeepSpeed config and runs DDP.
Without it, it finds no backend and takes every rank for a single process. `accelerate_sees_gloo` mends the second;
`check_distribution` refuses to train where either is left.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from cluster.contracts.errors import InputError, StageFailed
from training.engine.deepspeed_block import check_passthrough
from training.engine.deepspeed_config import deepspeed_config
from training.engine.deepspeed_engine import load_deepspeed
from training.launch.workers import Worker
from training.post_training.config import TrlConfig
from training.post_training.trl_block import check_trl_block
from training.post_training.trl_job import TrlJob


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
    deepspeed = trl_deepspeed_config(config)
    del deepspeed["optimizer"]  # the trainer makes it, with its own decay groups and schedule
    settings = dict(
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
        per_device_train_batch_size=config.rank_micro_batch_size,
        gradient_accumulation_steps=deepspeed["gradient_accumulation_steps"],
        train_sampling_strategy="sequential",
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=config.precision == "bf16",
        seed=job.seed,
        max_length=config.max_length,
        eval_strategy="steps" if config.eval_every_steps else "no",
        eval_steps=config.eval_every_steps,
        per_device_eval_batch_size=config.rank_micro_batch_size,
        prediction_loss_only=True,
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
    arguments = arguments_class(**{**settings, **config.trl})
    check_distribution(arguments, worker)
    return arguments


def trl_deepspeed_config(config: TrlConfig) -> dict[str, Any]:
    """DeepSpeed's settings for a stage, its `deepspeed` block put in. Raises `InputError` where that contradicts it."""
    world_size = config.workers.num_workers
    return deepspeed_config(
        zero_stage=config.zero_stage,
        precision=config.precision,
        micro_batch_size=config.rank_micro_batch_size,
        grad_accumulation_steps=config.global_batch_size // (config.rank_micro_batch_size * world_size),
        world_size=world_size,
        gradient_clipping=config.max_grad_norm,
        lr=config.lr,
        extra=config.deepspeed,
    )


def check_blocks(config: TrlConfig) -> None:
    """Raise `InputError` where DeepSpeed or TRL refuse something of the `deepspeed` and `trl` blocks.

    For the driver, before workers start.
    """
    problems = []
    try:
        if config.deepspeed:
            check_passthrough(config.deepspeed, trl_deepspeed_config(config))
    except InputError as error:
        problems.append(str(error))
    try:
        check_trl_block(config.trl, config.trl_arguments)
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))


def check_distribution(arguments: Any, worker: Worker) -> None:
    """Raise `StageFailed` unless Accelerate will use DeepSpeed on all ranks."""
    from accelerate.utils import DistributedType

    state = arguments.distributed_state
    if state.distributed_type != DistributedType.DEEPSPEED or state.num_processes != worker.world_size:
        raise StageFailed(
            f"Accelerate chose {state.distributed_type.value} on {state.num_processes} process(es) where DeepSpeed on "
            f"{worker.world_size} was asked for; unset ACCELERATE_USE_CPU and other ACCELERATE_ variables"
        )
