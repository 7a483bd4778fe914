"""A pre-training job: what each worker is told, what is built from it, and what is refused before a worker starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.errors import StageFailed
from training.checkpoint.store import CheckpointStore
from training.engine.deepspeed_block import check_passthrough
from training.engine.deepspeed_config import deepspeed_config
from training.models import (
    add_tokens,
    check_buildable,
    check_same_tokens,
    check_sequence_length,
    extend_context,
    load_config,
    load_model,
    model_config,
    new_model,
)
from training.pretrain.config import PretrainConfig


@dataclass(frozen=True)
class PretrainJob:
    """What each worker is told."""

    config: PretrainConfig
    tokens_uri: str
    tokens_fingerprint: str
    tokenizer_uri: str
    initial_model_uri: str | None
    output: str
    seed: int
    stage: str = "pretrain"  # its name in the spec


def build_model(job: PretrainJob, local: Path, tokenizer: Path) -> Any:
    """The model to train, in fp32: new weights, or those of the initial model, which lies in `local`."""
    kernel = job.config.attention_kernel
    if job.initial_model_uri is None:
        assert job.config.model is not None
        return new_model(model_config(job.config.model, tokenizer=load_tokenizer(tokenizer)), attention_kernel=kernel)
    config = None
    if job.config.context_extension is not None:
        config = extend_context(load_config(local), job.config.context_extension)
    model = load_model(local, config=config, attention_kernel=kernel)
    add_tokens(model, old_tokens=len(load_tokenizer(local)), num_tokens=len(load_tokenizer(tokenizer)))
    return model


def load_tokenizer(local: Path) -> Any:
    """The Hugging Face tokenizer in a local directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(local, local_files_only=True, trust_remote_code=False)


def engine_settings(config: PretrainConfig) -> dict[str, Any]:
    """DeepSpeed's settings for this stage. Raises `InputError` where its `deepspeed:` block can't be had."""
    settings = deepspeed_config(
        zero_stage=config.zero_stage,
        precision=config.precision,
        micro_batch_size=config.rank_micro_batch_size,
        grad_accumulation_steps=config.grad_accumulation_steps,
        world_size=config.workers.num_workers,
        gradient_clipping=config.gradient_clipping,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        offload=config.offload,
        accumulate_in_fp32=True,
        extra=config.deepspeed,
    )
    check_passthrough(config.deepspeed, settings)
    return settings


def checkpoint_store(config: PretrainConfig, output: str) -> CheckpointStore:
    """Where a run's checkpoints are while it runs, and those of `keep_every_steps` and `keep_best` afterwards."""
    return CheckpointStore.of_stage(
        output,
        keep=config.keep_checkpoints,
        keep_every_steps=config.keep_every_steps,
        keep_best=config.keep_best,
    )


def check_model(job: PretrainJob, scratch: Path) -> int:
    """The tokenizer's size; `InputError` if the model can't be built, or is too small for it or the sequences."""
    with storage.local_copy(job.tokenizer_uri, scratch) as local:
        tokenizer = load_tokenizer(local)
    if job.initial_model_uri is None:
        assert job.config.model is not None
        config = model_config(job.config.model, tokenizer=tokenizer)
    else:
        with storage.local_copy(job.initial_model_uri, scratch) as local:
            config = load_config(local)
            check_same_tokens(load_tokenizer(local), tokenizer)
        if job.config.context_extension is not None:
            config = extend_context(config, job.config.context_extension)
    check_sequence_length(job.config.sequence_length, config)
    # Where workers have GPUs, kernels may be installed there that the driver lacks.
    check_buildable(config, attention_kernel=job.config.attention_kernel if not job.config.workers.gpus else None)
    return len(tokenizer)


def check_checkpoint(store: CheckpointStore, job: PretrainJob) -> None:
    """Raise `StageFailed` if an earlier attempt's checkpoint is not of this job; any number of workers will do."""
    checkpoint = store.latest()
    if checkpoint is not None:
        check_checkpoint_data(checkpoint.state, job)


def check_checkpoint_data(state: Mapping[str, Any], job: PretrainJob) -> None:
    """Raise `StageFailed` if a checkpoint is of other shards, another model or another ZeRO stage."""
    said = {
        "tokens_fingerprint": "trained on the token shards",
        "model": "of the model",
        "zero_stage": "written under ZeRO stage",
    }
    for name, ours in checkpoint_identity(job).items():
        if state.get(name) != ours:
            raise StageFailed(
                f"the checkpoint in {job.output} was {said[name]} {state.get(name)}, and this job has {ours}; "
                f"go on with that, or remove its checkpoints directory to start over"
            )


def checkpoint_identity(job: PretrainJob) -> dict[str, Any]:
    """What a checkpoint says of the job that wrote it, and must agree in for a job to go on from it."""
    return {
        "tokens_fingerprint": job.tokens_fingerprint,
        "model": model_name(job),
        "zero_stage": job.config.zero_stage,
    }


def model_name(job: PretrainJob) -> str:
    """A text that tells one job's model from another's: its preset, config or initial model, and the precision."""
    model = job.initial_model_uri or json.dumps(job.config.model, sort_keys=True)
    return f"{model} in {job.config.precision}"
