"""What is wrong with a model directory, as far as file names, JSON and the heads of safetensors files tell.

This is the part of the check that `raymill plan` can afford: it imports neither torch nor transformers, and reads some
kilobytes of a model of any size. `inspection.py` goes on from here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact, InputError
from training.base_model.tensor_headers import TensorHeader, tensor_headers

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")  # which run code as they are opened
FOREIGN_WEIGHTS = {".gguf": "GGUF", ".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX"}
TOKENIZER_PARTS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model, and what to do about it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


@dataclass
class ModelDirectory:
    """What a directory holds, without the weights' values."""

    uri: str
    names: dict[str, int] = field(default_factory=dict)  # file -> size in bytes
    config: dict[str, Any] = field(default_factory=dict)  # empty where there is none that can be read
    tensors: dict[str, TensorHeader] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_adapter(self) -> bool:
        """Whether it is a PEFT adapter, which is a model only together with its base."""
        return ADAPTER_CONFIG in self.names and WEIGHTS not in self.names and WEIGHTS_INDEX not in self.names

    @property
    def has_tokenizer(self) -> bool:
        """Whether it brings a tokenizer of its own."""
        return any(part in self.names for part in TOKENIZER_PARTS)

    def path(self, name: str) -> str:
        """The URI of a file in it."""
        return storage.join(self.uri, name)


def look_at(uri: str) -> ModelDirectory:
    """What the directory at `uri` holds, with all that is wrong with a model. Adapters are not looked into."""
    found = ModelDirectory(uri)
    found.names = {file.uri[len(uri) :].lstrip("/"): file.size for file in storage.list_files(uri, recursive=True)}
    if found.is_adapter:
        return found
    found.findings += _config_findings(found)
    found.findings += _weight_findings(found)
    if not found.has_tokenizer:
        found.findings.append(
            Finding("holds no tokenizer (tokenizer.json)", "save the model's tokenizer into it by save_pretrained")
        )
    return found


def read_json(uri: str) -> dict[str, Any]:
    """The JSON object in a file. Raises `ValueError` where it is none."""
    value = json.loads(storage.read_bytes(uri))
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} and no object")
    return value


def shown(names: Iterator[str] | list[str] | set[str]) -> str:
    """The first names of many, as a sentence shows them."""
    ordered = sorted(names)
    rest = len(ordered) - _SHOWN_NAMES
    return ", ".join(ordered[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _config_findings(found: ModelDirectory) -> Iterator[Finding]:
    if CONFIG not in found.names:
        inner = sorted({name.rpartition("/")[0] for name in found.names if name.endswith("/" + CONFIG)})
        yield Finding(
            f"has no {CONFIG}",
            f"give the directory inside it that has one: {', '.join(inner)}"
            if inner
            else "give a directory as save_pretrained writes it",
        )
        return
    try:
        found.config = read_json(found.path(CONFIG))
    except ValueError as error:
        yield Finding(f"has a {CONFIG} that can't be read ({error})", "copy it again")
        return
    if not found.config.get("model_type"):
        yield Finding(f"has a {CONFIG} without a model_type", "give the config of a model of transformers")
    quantised = found.config.get("quantization_config")
    if quantised:
        how = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else "unknown"
        yield Finding(
            f"is quantised ({how}), and quantised weights can't be trained or merged",
            "give the model it was made from, in bf16, fp16 or fp32",
        )


def _weight_findings(found: ModelDirectory) -> Iterator[Finding]:
    """Reads the heads of all weight files into `found.tensors`."""
    if WEIGHTS in found.names:
        yield from _read_head(found, WEIGHTS)
    elif WEIGHTS_INDEX in found.names:
        yield from _read_shards(found)
    else:
        yield _no_weights(found)


def _read_shards(found: ModelDirectory) -> Iterator[Finding]:
    try:
        places = dict(read_json(found.path(WEIGHTS_INDEX))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        yield Finding(f"has a {WEIGHTS_INDEX} that can't be read ({error!r})", "copy it again")
        return
    absent = {str(file) for file in places.values()} - set(found.names)
    if absent:
        yield Finding(f"lacks weight files that {WEIGHTS_INDEX} names: {shown(absent)}", "copy them too")
    unread = set(absent)
    for file in sorted({str(file) for file in places.values()} - absent):
        problems = list(_read_head(found, file))
        unread |= {file} if problems else set()
        yield from problems
    lost = {name for name, file in places.items() if file not in unread and name not in found.tensors}
    if lost:
        yield Finding(f"lacks tensors that {WEIGHTS_INDEX} names: {shown(lost)}", "copy the weight files again")


def _read_head(found: ModelDirectory, name: str) -> Iterator[Finding]:
    try:
        found.tensors.update(tensor_headers(found.path(name)))
    except (CorruptArtifact, InputError) as error:
        yield Finding(f"has a {name} that {error}", "copy that file again; `git lfs pull` fetches what Git keeps apart")


def _no_weights(found: ModelDirectory) -> Finding:
    top = {name for name in found.names if "/" not in name}
    pickles = {name for name in top if name.endswith(PICKLES) and name not in ("training_args.bin", "optimizer.pt")}
    if pickles:
        return Finding(
            f"has its weights as pickles only ({shown(pickles)}), which can run code as they are opened",
            "take a copy of the model with safetensors, or load it where you trust it and save it again by "
            "save_pretrained",
        )
    for ending, name in FOREIGN_WEIGHTS.items():
        if any(file.endswith(ending) for file in top):
            return Finding(
                f"has its weights as {name} only ({shown({file for file in top if file.endswith(ending)})})",
                "save it as safetensors by transformers' save_pretrained",
            )
    loose = {name for name in top if name.endswith(".safetensors")}
    if loose:
        return Finding(
            f"has weights of another name than transformers' ({shown(loose)}), and no {WEIGHTS_INDEX}",
            f"copy the {WEIGHTS_INDEX} that belongs to them too, or save the model by save_pretrained",
        )
    return Finding(f"has no weights ({WEIGHTS}, or shards with {WEIGHTS_INDEX})", "copy them into it")
