"""The one check of a model that a stage is given: whole models and adapters, every problem at once, no weights read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from cluster.contracts.errors import InputError
from cluster.contracts.model_needs import ModelNeeds
from training.base_model.adapter_layers import BASE_RECORD, adapter_layers, weights_digest
from training.base_model.directory import ADAPTER_CONFIG, Finding, ModelDirectory, look_at, read_json, shown
from training.base_model.inspection import (
    Role,
    answer_findings,
    load_config,
    skeleton,
    transformers_findings,
    without_weights,
)

_SIDES = {"A.weight": 1, "B.weight": 0}  # where LoRA's A [rank, in] and B [out, rank] have the base's sides


def model_findings(uri: str, needs: ModelNeeds, role: Role, *, scratch: Path) -> list[Finding]:
    """All that is wrong with the model (or adapter) in the directory `uri`; reads no weights."""
    directory = look_at(uri)
    if not directory.is_adapter:
        return [*directory.findings, *transformers_findings(directory, needs, role, scratch=scratch)]
    layers, found = adapter_layers(directory)
    if not layers or layers[-1].is_adapter:
        return found
    *adapters, base = layers
    rewards = any(read_json(a.path(ADAPTER_CONFIG)).get("task_type") == "SEQ_CLS" for a in adapters)
    if rewards != (role == "reward"):
        is_one, wanted = (
            ("a reward model's", "a causal model's") if rewards else ("a causal model's", "a reward model's")
        )
        found.append(Finding(f"is {is_one} adapter", f"give {wanted} adapter, or the whole model"))
    tokenizer_owner = next((layer for layer in layers if layer.has_tokenizer), base)
    base_needs = replace(
        needs,
        chat_template=needs.chat_template and tokenizer_owner is base,
        padding_token=needs.padding_token and tokenizer_owner is base,
        new_head=needs.new_head or rewards,
    )
    below = [*base.findings, *transformers_findings(base, base_needs, "policy", scratch=scratch)]
    found += [Finding(f"its base {base.uri} {finding.what}", finding.mend) for finding in below]
    if not below:
        for adapter in adapters:
            found += _fit_findings(adapter, base, role, base_needs, scratch)
    for upper, lower in pairwise(layers):
        found += _record_findings(upper, lower)
    return found


def findings_of_origin(uri: str, needs: ModelNeeds, *, scratch: Path) -> list[Finding]:
    """What a stage can't use of any model that others train from the one in the directory `uri`, whatever they do."""
    directory = look_at(uri)
    layers = adapter_layers(directory)[0] if directory.is_adapter else [directory]
    if not needs.answers or not layers or layers[-1].is_adapter or layers[-1].findings:
        return []
    with without_weights(layers[-1], scratch) as local:
        try:
            config, _ = load_config(local, "policy")
        except (InputError, OSError, ValueError):  # told where the directory itself is checked
            return []
    return list(answer_findings(config, needs))


def _fit_findings(
    adapter: ModelDirectory, base: ModelDirectory, role: Role, needs: ModelNeeds, scratch: Path
) -> Iterator[Finding]:
    """Adapters' matrices against the base's; tensors that an adapter saves whole must be of the same shape."""
    with without_weights(base, scratch) as local:
        config, _ = load_config(local, "policy")
        if role == "reward":
            config.num_labels = 1
        model, _ = skeleton(config, role, needs)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    wrong: set[str] = set()
    for name, header in adapter.tensors.items():
        inner = name.removeprefix("base_model.model.").replace(".base_layer", "")
        module, _, part = inner.rpartition(".lora_")
        if not module:
            there = shapes.get(inner.replace(".modules_to_save", ""))
            if there != header.shape and "lora_" not in inner:
                wrong.add(f"{inner} {list(header.shape)}")
            continue
        there = shapes.get(f"{module}.weight")
        if there is None or len(there) != 2:
            wrong.add(f"{module} is no matrix of the base")
        elif part in _SIDES and header.shape[_SIDES[part]] not in there:  # of Conv1D, the sides are swapped
            wrong.add(f"{inner} {list(header.shape)} for {list(there)}")
    if wrong:
        yield Finding(
            f"was trained for another base than {base.uri}: {shown(wrong)}", "name the base that it was trained on"
        )


def _record_findings(adapter: ModelDirectory, base: ModelDirectory) -> Iterator[Finding]:
    if BASE_RECORD not in adapter.names:
        return
    recorded = read_json(adapter.path(BASE_RECORD)).get("weights")
    if recorded and recorded != weights_digest(base.uri):
        yield Finding(
            f"was trained for another base than {base.uri}, whose weights are not those that {BASE_RECORD} tells of",
            "name the base that it was trained on",
        )
