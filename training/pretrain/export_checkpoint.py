"""Makes a model out of a checkpoint that a finished pre-training stage kept (`keep_every_steps`, `keep_best`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from training.checkpoint.store import Checkpoint, CheckpointStore
from training.engine.deepspeed_engine import saved_weights
from training.export import export_model


def export_checkpoint(stage_uri: str, output: str, *, step: int | None = None) -> Checkpoint:
    """Write the model of checkpoint `step` (None: the newest kept) as a Hugging Face directory; returns the checkpoint.

    `stage_uri` is the pre-training stage's artifact: the model's config and tokenizer are taken from there. Needs
    local disk for the whole checkpoint and host memory for the fp32 weights. Raises `InputError` where there is no
    such checkpoint, `CorruptArtifact` where its files are damaged.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    store = CheckpointStore.of_stage(stage_uri)
    kept = store.steps()
    if not kept or (step is not None and step not in kept):
        there = f"those of the steps {', '.join(map(str, kept))}" if kept else "none"
        raise InputError(
            f"{stage_uri} keeps no checkpoint{'' if step is None else f' of step {step}'}; there are {there} (a stage "
            "keeps what keep_every_steps and keep_best say)"
        )
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = store.load(kept[-1] if step is None else step, Path(scratch) / "checkpoint")
        with storage.local_copy(stage_uri, Path(scratch)) as local:
            config = AutoConfig.from_pretrained(local, local_files_only=True, trust_remote_code=False)
        weights = saved_weights(Path(scratch) / "checkpoint", zero_stage=checkpoint.state["zero_stage"])
        model = AutoModelForCausalLM.from_config(config)
        weights = {name: weight.to(model.dtype) for name, weight in weights.items()}
        export_model(model, weights, tokenizer_uri=stage_uri, output=output, scratch=Path(scratch))
    return checkpoint
