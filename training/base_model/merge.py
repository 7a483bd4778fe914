"""Adapter and base merged to one model, for a stage that starts from an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.reward_scale import REWARD_SCALE_FILE
from training.base_model.adapter_layers import adapter_layers
from training.base_model.directory import ModelDirectory, look_at
from training.base_model.inspection import Role
from training.export import copy_tokenizer
from training.models import load_model, load_reward_model, load_under_new_head


def merge_adapter(uri: str, role: Role, *, target: Path, scratch: Path) -> None:
    """Write the model that the adapter in `uri` makes of its base to the local directory `target`, in fp32.

    In fp32, since rounding to the base's own type would undo part of what the adapter learned. A reward model keeps its
    adapter's padding token and scale of rewards. Takes memory for one copy of the weights. Raises `InputError` where
    the base is not to be found.
    """
    from transformers import AutoTokenizer

    layers, found = adapter_layers(look_at(uri))
    if found or layers[-1].is_adapter:
        raise InputError("; ".join(map(str, found)) or f"{uri} is no adapter with a base")
    model = _merged(layers, role, scratch)
    owner = next(layer for layer in layers if layer.has_tokenizer)
    target.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(owner.uri, target)
    if role == "reward":
        # A score is read in front of the padding, so what is padding must be what the adapter was trained with.
        padding = AutoTokenizer.from_pretrained(target, local_files_only=True).pad_token_id
        if padding is not None:
            model.config.pad_token_id = padding
        scale = storage.join(uri, REWARD_SCALE_FILE)
        if storage.exists(scale):
            storage.download_file(scale, target / REWARD_SCALE_FILE)
    model.save_pretrained(target)


def _merged(layers: list[ModelDirectory], role: Role, scratch: Path) -> Any:
    from peft import PeftModel

    *adapters, base = layers
    with storage.local_copy(base.uri, scratch) as local:
        if role == "policy":
            model = load_model(local)
        elif str((base.config.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
            model = load_reward_model(local)
        else:  # the adapter brings the score head
            model = load_under_new_head(local, num_labels=1)
    for adapter in reversed(adapters):
        with storage.local_copy(adapter.uri, scratch) as local:
            if _touches_tied(adapter, model):
                _untie(model)
            model = PeftModel.from_pretrained(model, str(local)).merge_and_unload()
    return model


def _touches_tied(adapter: ModelDirectory, model: Any) -> bool:
    """Whether the adapter changes one of two tensors that the model ties, which merging would change both."""
    head = model.get_output_embeddings()
    if head is None or head.weight is not model.get_input_embeddings().weight:
        return False
    tied = {name for name, module in model.named_modules() if module in (head, model.get_input_embeddings())}
    return any(
        name.removeprefix("base_model.model.").startswith(tuple(f"{t}." for t in tied)) for name in adapter.tensors
    )


def _untie(model: Any) -> None:
    import torch

    model.config.tie_word_embeddings = False
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
