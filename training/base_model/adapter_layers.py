"""Adapter directories (PEFT): the base that each stands on, down to a whole model; without torch and transformers.

An adapter names its base by `base_model_name_or_path` in adapter_config.json: a directory, seen from the adapter's own
where it is a relative path. The base may be an adapter itself.
"""

from __future__ import annotations

import hashlib
import json

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact, InputError
from training.base_model.directory import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    WEIGHTS,
    Finding,
    ModelDirectory,
    look_at,
    read_json,
)
from training.base_model.tensor_headers import tensor_headers

BASE_RECORD = "base_model.json"
"""Written beside an adapter that a stage made: {"weights": `weights_digest` of the base that it was trained on}."""
_DEEPEST = 8  # adapters upon one another; more are taken for a circle
_DIGEST_TENSORS, _DIGEST_BYTES = 512, 1024  # of how many tensors in a file, and how much of each, a digest is made


def light_findings(uri: str) -> list[Finding]:
    """What is wrong with a model or adapter directory, as far as that can be told without torch and transformers."""
    directory = look_at(uri)
    found = list(directory.findings)
    if not directory.is_adapter:
        return found
    layers, found = adapter_layers(directory)
    if layers and not layers[-1].is_adapter:
        found += [Finding(f"its base {layers[-1].uri} {finding.what}", finding.mend) for finding in layers[-1].findings]
    return found


def adapter_layers(directory: ModelDirectory) -> tuple[list[ModelDirectory], list[Finding]]:
    """The adapter, what it stands on, and so on down to the whole model; and what is wrong with the adapters.

    The last one is an adapter only where its base was not found.
    """
    layers, found = [directory], list[Finding]()
    while layers[-1].is_adapter:
        base, problems = _base_of(layers[-1])
        found += problems
        if base is None:
            break
        if len(layers) > _DEEPEST or any(base == layer.uri for layer in layers):
            found.append(Finding("stands on itself, by base_model_name_or_path", "name the base it was trained on"))
            break
        layers.append(look_at(base))
    return layers, found


def adapter_base(uri: str) -> str | None:
    """The URI of the base of the adapter in `uri`; None for a whole model, or where it is not to be found."""
    if not storage.exists(storage.join(uri, ADAPTER_CONFIG)):
        return None
    directory = look_at(uri)
    return _base_of(directory)[0] if directory.is_adapter else None


def _base_of(adapter: ModelDirectory) -> tuple[str | None, list[Finding]]:
    found: list[Finding] = []
    if ADAPTER_WEIGHTS not in adapter.names:
        found.append(
            Finding(
                f"is an adapter without {ADAPTER_WEIGHTS}", "save it again by PEFT's save_pretrained, as safetensors"
            )
        )
    else:
        try:
            adapter.tensors = tensor_headers(adapter.path(ADAPTER_WEIGHTS))
        except (CorruptArtifact, InputError) as error:
            found.append(Finding(f"has an {ADAPTER_WEIGHTS} that {error}", "copy that file again"))
    try:
        config = read_json(adapter.path(ADAPTER_CONFIG))
    except ValueError as error:
        return None, [*found, Finding(f"has an {ADAPTER_CONFIG} that can't be read ({error})", "copy it again")]
    if config.get("peft_type") != "LORA":
        found.append(
            Finding(
                f"is an adapter of type {config.get('peft_type')}, and only LORA is merged", "merge it by PEFT first"
            )
        )
    name = str(config.get("base_model_name_or_path") or "")
    mend = f"set base_model_name_or_path in its {ADAPTER_CONFIG} to the directory of the model that it was trained on"
    if not name:
        return None, [*found, Finding("is an adapter that does not name its base", mend)]
    uri = storage.absolute_uri(name, base=adapter.uri)
    if not storage.exists(uri):
        return None, [*found, Finding(f"is an adapter for {name}, and there is no such directory here", mend)]
    return uri, found


def weights_digest(uri: str) -> str:
    """A hash of a model's weights: names, types and shapes of all tensors, and the first values of up to 512 a file.

    Copies and other places of the same files have the same one; another training of the same model does not. An
    adapter's covers its base.
    """
    directory = look_at(uri)
    hasher = hashlib.sha256()
    if directory.is_adapter:
        base = adapter_base(uri)
        hasher.update((weights_digest(base) if base is not None else "").encode())
    for file in [ADAPTER_WEIGHTS] if directory.is_adapter else _weight_files(directory):
        headers = sorted(tensor_headers(directory.path(file)).items())
        hasher.update(json.dumps([[name, header.dtype, header.shape] for name, header in headers]).encode())
        filesystem, path = storage.locate(directory.path(file))
        with filesystem.open_input_file(path) as stream:
            for _, header in headers[:: -(-len(headers) // _DIGEST_TENSORS) or 1]:
                stream.seek(header.position)
                hasher.update(stream.read(min(header.num_bytes, _DIGEST_BYTES)))
    return hasher.hexdigest()


def _weight_files(directory: ModelDirectory) -> list[str]:
    if WEIGHTS in directory.names:
        return [WEIGHTS]
    return sorted(name for name in directory.names if name.endswith(".safetensors") and "/" not in name)
