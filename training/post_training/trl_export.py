"""From the weights that a TRL trainer ends with to a model directory, held against what was trained."""

from __future__ import annotations

import math
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

MOST_ROUNDED = 0.1  # largest `rounding_share` that `export_dtype: auto` puts up with
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
            is_adapter = (directory / ADAPTER_CONFIG).exists()
            is_exact = job.config.precision == "fp32" and (is_adapter or load_config(directory).dtype == torch.float32)
            precision = "fp32" if is_exact else "bf16"
            compare_logits(exported, logits, probe, pad_token_id=self.pad_token_id, precision=precision)

        return check


def export_trained(
    trained: Any,
    state_dict: Mapping[str, torch.Tensor],
    job: TrlJob[Any],
    worker: Worker,
    model_form: ModelForm,
    check: Callable[[Path, Path], None] | None,
) -> tuple[list[WrittenFile], dict[str, Any]]:
    """Write the trained model, or its adapters alone, to `job.output`; called on rank 0.

    Returns the files, and what `chosen_dtype` found of the number format.
    """
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
            return publish_directory(local, job.output), {}
        if config.lora is not None:
            model = model.merge_and_unload()
        dtype, figures = chosen_dtype(model, lambda: model_form.load_base(base), config, base, worker.progress.note)
        model = model.to(dtype)
        files = export_model(
            model,
            model.state_dict(),
            tokenizer_uri=job.model_uri,
            output=job.output,
            scratch=worker.scratch,
            encoder=model_form.encoder,
            check=checked,
        )
        return files, figures


def chosen_dtype(
    model: Any, load_base: Callable[[], Any], config: TrlConfig, base_directory: Path, note: Callable[[str], None]
) -> tuple[torch.dtype, dict[str, Any]]:
    """(number format to export the trained `model` in, figures: its name, and `rounding_share` if it has 16 bits).

    `model` is the trained one in fp32. A format of 16 bits is taken by `auto` only where rounding takes back at most
    `MOST_ROUNDED` of what was learned; one that was asked for is taken, and `note` is told what it costs.
    """
    asked = config.export_dtype
    dtype = load_config(base_directory).dtype if asked in ("auto", "base") else _DTYPES[asked]
    if dtype not in _DTYPES.values():
        dtype = torch.float32
    names = {value: name for name, value in _DTYPES.items()}
    if dtype == torch.float32:
        return dtype, {"export_dtype": "fp32"}
    share = rounding_share(model, load_base(), dtype)
    told = f"rounding to {names[dtype]} takes back {share:.0%} of what was learned"
    if share > MOST_ROUNDED and asked == "auto":
        note(f"the model is exported in fp32: {told}")
        return torch.float32, {"export_dtype": "fp32"}
    if share > MOST_ROUNDED:
        note(f"{told}, as export_dtype: {asked} asks for; export_dtype: fp32 or auto keeps it")
    return dtype, {"export_dtype": names[dtype], "rounding_share": share}


def rounding_share(trained: Any, base: Any, dtype: torch.dtype) -> float:
    """|trained - its rounding to `dtype`| / |trained - base|, norms over the tensors that training changed.

    1 is to learn nothing: small changes are rounded back to a base whose weights are in `dtype` already.
    """
    before = base.state_dict()
    lost = learned = 0.0
    for name, weight in trained.state_dict().items():
        start = before.get(name)
        if start is None or start.shape != weight.shape or torch.equal(start, weight):
            continue
        lost += float((weight - weight.to(dtype).to(weight.dtype)).double().square().sum())
        learned += float((weight - start).double().square().sum())
    return math.sqrt(lost / learned) if learned else 0.0


_TRAINED = "trained"


def commit_training(trained: TrainedModel, job: TrlJob[Any], worker: Worker) -> None:
    """Mark the exported model as whole, before anything is measured; all ranks call it."""
    if worker.is_main:
        with commit_part(job.output, _TRAINED) as part:
            part.files.update({file.name: file for file in trained.files})
            part.metrics.update(
                engine=trained.engine,
                steps=trained.steps,
                train_loss=trained.train_loss,
                best=trained.best,
                export=trained.export,
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
    return TrainedModel(
        found["engine"], found["steps"], found["train_loss"], found["best"], found.get("export", {}), files
    )
