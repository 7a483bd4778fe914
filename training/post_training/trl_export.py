"""From the weights that a TRL trainer ends with to a model directory, held against what was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.contracts import storage
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.exported import write_chat
from cluster.contracts.commit import WrittenFile, check_size, commit_part, committed_part
from cluster.contracts.errors import CorruptArtifact
from training.base_model.directory import ADAPTER_CONFIG
from training.export import copy_tokenizer, export_model, publish_directory, require_finite
from training.launch.workers import Worker
from training.models import load_config
from training.post_training.adapters import (
    compare_logits,
    probe_logits,
    probe_rows,
    save_adapter,
    with_weights,
)
from training.post_training.config import TrlConfig
from training.post_training.trl_job import TrainedModel, TrlJob

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelForm:
    """How a stage opens models: the one that training starts from, and the one that it makes."""

    load_base: Callable[[Path], Any]  # in one piece, as it was before training
    load_whole: Callable[[Path], Any]  # an exported model directory
    encoder: ChatEncoder  # of its conversations: what is exported chats as it does

    @property
    def pad_token_id(self) -> int:
        """The token that rows are padded with."""
        return int(self.encoder.tokenizer.pad_token_id)

    def load_exported(self, directory: Path, base_directory: Path) -> Any:
        """The model in an exported directory, its adapter merged with the base where it holds an adapter alone."""
        if not (directory / ADAPTER_CONFIG).exists():
            return self.load_whole(directory)
        from peft import PeftModel

        return PeftModel.from_pretrained(self.load_base(base_directory), str(directory)).merge_and_unload()

    def open(self, job: TrlJob[Any], worker: Worker, *, base: bool = False) -> Any:
        """The model that the stage made, or with `base` the one it began from, on this rank's device in fp32."""
        with storage.local_copy(job.model_uri, worker.scratch) as base_directory:
            if base:
                return self.load_base(base_directory).to(worker.device)
            with storage.local_copy(job.output, worker.scratch) as directory:
                return self.load_exported(directory, base_directory).to(worker.device)

    def exported_check(
        self, engine: Any, job: TrlJob[Any], worker: Worker, rows: Sequence[Sequence[int]]
    ) -> Callable[[Path, Path], None]:
        """What holds an exported directory, and its base's, against the trained model; all ranks call it."""
        probe = probe_rows(rows)
        logits = probe_logits(engine, probe, pad_token_id=self.pad_token_id, device=worker.device)

        def check(directory: Path, base_directory: Path) -> None:
            exported = self.load_exported(directory, base_directory)
            dtype = (
                "fp32"
                if job.config.precision == "fp32" and exported_dtype(job.config, base_directory) == torch.float32
                else "bf16"
            )
            compare_logits(exported, logits, probe, pad_token_id=self.pad_token_id, precision=dtype)

        return check


def export_trained(
    trained: Any,
    state_dict: Mapping[str, torch.Tensor],
    job: TrlJob[Any],
    worker: Worker,
    model_form: ModelForm,
    check: Callable[[Path, Path], None] | None,
) -> list[WrittenFile]:
    """Write the trained model, or its adapters alone, to `job.output`; called on rank 0."""
    config: TrlConfig = job.config
    with storage.local_copy(job.model_uri, worker.scratch) as base:
        model = with_weights(model_form.load_base(base), state_dict, trained)

        def checked(directory: Path) -> None:
            if check is not None:
                check(directory, base)

        if config.lora is not None and not config.lora.merge:
            local = worker.scratch / "export"
            require_finite(state_dict)
            save_adapter(model, local, base_uri=job.model_uri, output=job.output)
            copy_tokenizer(job.model_uri, local)
            write_chat(local, model_form.encoder)
            checked(local)
            return publish_directory(local, job.output)
        if config.lora is not None:
            model = model.merge_and_unload()
        model = model.to(exported_dtype(config, base))
        return export_model(
            model,
            model.state_dict(),
            tokenizer_uri=job.model_uri,
            output=job.output,
            scratch=worker.scratch,
            encoder=model_form.encoder,
            check=checked,
        )


def exported_dtype(config: TrlConfig, base_directory: Path) -> torch.dtype:
    """The number format that the exported weights have."""
    if config.export_dtype != "base":
        return _DTYPES[config.export_dtype]
    found = load_config(base_directory).dtype
    return found if found in _DTYPES.values() else torch.float32


_TRAINED = "trained"


def commit_training(trained: TrainedModel, job: TrlJob[Any], worker: Worker) -> None:
    """Mark the exported model as whole, before anything is measured; all ranks call it."""
    if worker.is_main:
        with commit_part(job.output, _TRAINED) as part:
            part.files.update({file.name: file for file in trained.files})
            part.metrics.update(
                engine=trained.engine, steps=trained.steps, train_loss=trained.train_loss, best=trained.best
            )
    worker.barrier()


def committed_training(job: TrlJob[Any], worker: Worker) -> TrainedModel | None:
    """What `commit_training` left at `job.output`, if its files are all there; all ranks call it and agree."""
    part = committed_part(job.output, _TRAINED)
    try:
        for file in part.files.values() if part is not None else ():
            check_size(job.output, file)
    except CorruptArtifact:
        part = None
    if not worker.agree(part is not None):
        return None
    assert part is not None
    worker.progress.note("the model is trained already; it is measured")
    files = list(part.files.values()) if worker.is_main else []
    found = part.metrics
    return TrainedModel(found["engine"], found["steps"], found["train_loss"], found["best"], files)
