"""Low-rank adapters (LoRA): put on a model, merged with it or kept alone, and held against what was trained.

Embeddings that are tied to the output layer can't carry an adapter: merged, it would change both, and only one of them
was trained with it. Such a model is untied first, for training and export alike, and its config says so.

Shape letters: B rows of a batch, T positions, V vocabulary.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cluster.contracts import storage
from cluster.contracts.errors import InputError, StageFailed
from training.base_model.adapter_layers import BASE_RECORD, weights_digest
from training.base_model.directory import ADAPTER_CONFIG
from training.inference.sequence_scores import padded
from training.models import load_config, load_model
from training.post_training.config import LoraSettings, TrlConfig

_NUM_ROWS, _NUM_TOKENS = 4, 64  # of the rows that an exported model is held against the trained one by
_SAME_LOGITS = {"fp32": 1e-5, "bf16": 0.05}  # largest difference, in shares of the largest logit where that is above 1


def lora_config(config: TrlConfig, *, task_type: str, modules_to_save: Sequence[str] = ()) -> Any:
    """PEFT's config for the spec's `lora:`, or None. `modules_to_save` are trained whole, beside the spec's own."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    whole = [
        *config.lora.modules_to_save,
        *(name for name in modules_to_save if name not in config.lora.modules_to_save),
    ]
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        modules_to_save=whole or None,
        task_type=task_type,
    )


def load_for_adapters(directory: Path, untied: Any) -> Any:
    """The causal model in a local directory, in fp32, under the config that `untied_config` found, if it found one.

    Under ZeRO-3 it is loaded in parts, as transformers does once the trainer's arguments are made; all ranks call it.
    """
    if untied is None:
        return load_model(directory)
    model = load_model(directory, config=copy.deepcopy(untied), fills_output_layer=True)
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if hasattr(head, "ds_id"):  # a part of it only: ZeRO-3's
        import deepspeed

        with deepspeed.zero.GatheredParameters([head, embeddings], modifier_rank=0):
            head.data.copy_(embeddings.data)
    else:
        head.data.copy_(embeddings.data)
    return model


def untied_config(directory: Path, lora: LoraSettings | None) -> Any:
    """The model's config with untied embeddings where adapters touch tied ones; None where it stays as it is.

    To be asked before the trainer's arguments are made: from there on models are made in parts. Raises `InputError`
    where an adapter is put on the output layer: TRL's losses read its weights past the adapter.
    """
    from transformers import AutoModelForCausalLM

    if lora is None:
        return None
    config = load_config(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = {id(module): name for name, module in model.named_modules()}
    head = names.get(id(model.get_output_embeddings()), "")
    embeddings = names[id(model.get_input_embeddings())]
    targets = lora.target_modules if isinstance(lora.target_modules, list) else []
    if _is_among(head, targets):
        raise InputError(
            f"lora.target_modules holds {head.rpartition('.')[2]}, the output layer, whose weights TRL's losses read "
            "past an adapter; take it out, or train the layer whole by lora.modules_to_save"
        )
    touched = [*targets, *lora.modules_to_save]
    text_config = config.get_text_config()
    if not text_config.tie_word_embeddings or not (_is_among(head, touched) or _is_among(embeddings, touched)):
        return None
    config.tie_word_embeddings = text_config.tie_word_embeddings = False
    return config


def _is_among(module: str, names: Sequence[str]) -> bool:
    """Whether PEFT finds the module by one of these names: whole, or its end behind a dot."""
    return any(module == name or module.endswith(f".{name}") for name in names)


# ------------------------------------------------------------------------------------------------------- export


def with_weights(model: Any, state_dict: Mapping[str, torch.Tensor], trained: Any) -> Any:
    """`model` with the trained weights, under its adapters if it was trained with some.

    Raises `StageFailed` if the weights don't fit it.
    """
    adapters = getattr(trained, "peft_config", None)
    if adapters is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapters["default"])
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    lost = [name for name in missing if name not in tied]
    if lost or unexpected:
        raise StageFailed(f"the trained weights don't fit the model: missing {lost}, unexpected {list(unexpected)}")
    return model


def save_adapter(model: Any, directory: Path, *, base_uri: str, output: str) -> None:
    """Write the adapter of a PEFT model to a local directory, in PEFT's form, for an artifact at `output`.

    Its `base_model_name_or_path` is the base's place, seen from the artifact's where both are local. Beside it stands
    the digest of the base's weights, by which an adapter on another base is refused.
    """
    model.save_pretrained(directory, selected_adapters=["default"], save_embedding_layers=False)
    path = directory / ADAPTER_CONFIG
    settings = json.loads(path.read_text())
    local = storage.is_local(base_uri) and storage.is_local(output)
    settings["base_model_name_or_path"] = (
        os.path.relpath(storage.local_path(base_uri), storage.local_path(output)) if local else base_uri
    )
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (directory / BASE_RECORD).write_text(json.dumps({"weights": weights_digest(base_uri)}) + "\n")
    (directory / "README.md").unlink(missing_ok=True)  # a form to be filled in, which nobody did


def probe_rows(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """A few beginnings of training rows, by which two models are compared."""
    return [list(row[:_NUM_TOKENS]) for row in rows[:_NUM_ROWS]]


def probe_logits(model: Any, rows: Sequence[Sequence[int]], *, pad_token_id: int, device: torch.device) -> torch.Tensor:
    """What the model makes of `probe_rows`, at the real positions alone: float32 on the CPU, one row a position.

    `model` may be a training engine, whose ranks must all call it; it is left in training mode if it was in it.
    """
    was_training = model.training
    model.eval()
    input_ids_BT, attention_mask_BT = padded(rows, pad_token_id, device)
    with torch.no_grad():
        output = model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False)
    logits = output.logits.float().cpu()
    model.train(was_training)
    return logits[attention_mask_BT.bool().cpu()] if logits.ndim == 3 else logits


def compare_logits(
    exported: Any, trained_logits: torch.Tensor, rows: Sequence[Sequence[int]], *, pad_token_id: int, precision: str
) -> None:
    """Raise `StageFailed` unless the exported model gives `rows` the logits that the trained one gave."""
    exported_logits = probe_logits(exported, rows, pad_token_id=pad_token_id, device=torch.device("cpu"))
    difference = float((exported_logits - trained_logits).abs().max())
    scale = max(1.0, float(trained_logits.abs().max()))
    if not difference <= _SAME_LOGITS[precision] * scale:
        raise StageFailed(
            f"the exported model is not the trained one: their logits differ by {difference:.2g} (the largest is "
            f"{scale:.3g}); nothing is exported. Adapters on these layers can't be merged: take other "
            "lora.target_modules"
        )
