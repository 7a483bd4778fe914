"""Writes finished models and stage results: from a rank's memory to the artifact, hashed on the way.

An exported model is a Hugging Face directory (safetensors, config, tokenizer files) at the artifact's root.
`commit_result` marks the stage's own work as done. A stage that is killed after that, before the runner wrote its
manifest, then gives its result again instead of training again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from cluster.contracts import storage
from cluster.contracts.artifacts import FILE_LIST, MANIFEST, StageResult
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.exported import write_chat
from cluster.contracts.commit import (
    MARKERS,
    HashingStream,
    WrittenFile,
    check_size,
    commit_part,
    committed_part,
)
from cluster.contracts.errors import CorruptArtifact, InputError, StageFailed
from training.finite_weights import named_not_finite, not_finite

# What a Hugging Face tokenizer is made of; a model directory holds these beside its weights.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_RESULT = "result"


def publish_directory(local: Path, output: str) -> list[WrittenFile]:
    """Copy all files below `local` to the artifact at `output`; their sizes and SHA-256, taken on the way."""
    written = []
    for source in sorted(p for p in local.rglob("*") if p.is_file()):
        name = source.relative_to(local).as_posix()
        written.append(publish_file(source, output, name))
    return written


def publish_file(source: Path, output: str, name: str) -> WrittenFile:
    """Copy one local file to `name` in the artifact at `output`."""
    uri = storage.join(output, name)
    storage.make_directory(uri.rsplit("/", 1)[0])
    filesystem, path = storage.locate(uri)
    with open(source, "rb") as stream, filesystem.open_output_stream(path, compression=None) as sink:
        hashing = HashingStream(cast(BinaryIO, sink))
        while chunk := stream.read(1 << 22):
            hashing.write(chunk)
    return hashing.written(name)


def write_file(output: str, name: str, content: bytes) -> WrittenFile:
    """Write `content` to `name` in the artifact at `output`."""
    storage.write_bytes(storage.join(output, name), content)
    return WrittenFile(name, len(content), hashlib.sha256(content).hexdigest())


def copy_tokenizer(tokenizer_uri: str, target: Path) -> None:
    """Bring the tokenizer files of a tokenizer or model artifact to a local directory. Raises `InputError`."""
    names = [n for n in TOKENIZER_FILES if storage.exists(storage.join(tokenizer_uri, n))]
    if not names:
        raise InputError(f"{tokenizer_uri} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    for name in names:
        storage.download_file(storage.join(tokenizer_uri, name), target / name)


def export_model(
    model: Any,
    state_dict: Mapping[str, torch.Tensor],
    *,
    tokenizer_uri: str,
    output: str,
    scratch: Path,
    encoder: ChatEncoder | None = None,
    check: Callable[[Path], None] | None = None,
) -> list[WrittenFile]:
    """Write a model to `output` as a Hugging Face directory with its tokenizer; call it on rank 0.

    `model` is the `PreTrainedModel` that trained; its own parameters may be partitioned, since only
    `state_dict` (from `engine.full_state_dict`) is written. `scratch` needs room for one copy of the weights. With
    an `encoder` the directory says how the model chats: where answers end, the template, the padding token. `check` is
    given the local directory before anything goes to `output`. Raises `StageFailed`, and writes nothing, where a weight
    is nan or infinite, and whatever `check` raises.
    """
    from transformers.utils import logging

    require_finite(state_dict)
    logging.disable_progress_bar()
    local = scratch / "export"
    model.save_pretrained(local, state_dict=dict(state_dict))
    copy_tokenizer(tokenizer_uri, local)
    if encoder is not None:
        write_chat(local, encoder)
    if check is not None:
        check(local)
    return publish_directory(local, output)


def require_finite(state_dict: Mapping[str, torch.Tensor]) -> None:
    """Raise `StageFailed` where a weight that would be exported is nan or infinite."""
    bad = not_finite(state_dict.items())
    if bad:
        raise StageFailed(
            f"training ended with a model that is no model: {named_not_finite(bad, len(state_dict))}; nothing is "
            "exported. A lower lr or a longer warm-up keeps training from diverging"
        )


def describe_files(uri: str) -> list[WrittenFile]:
    """Name, size and SHA-256 of every file of an artifact, found by reading them. The runner's own files are left out.

    For stages that don't list what they wrote. Markers and checkpoints are not part of the artifact.
    """
    files = []
    for file in storage.list_files(uri, recursive=True):
        name = file.uri[len(uri) :].lstrip("/")
        if name in (MANIFEST, FILE_LIST) or name.split("/")[0] in (MARKERS, "checkpoints"):
            continue
        filesystem, path = storage.locate(file.uri)
        digest, size = hashlib.sha256(), 0
        with filesystem.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
                size += len(chunk)
        files.append(WrittenFile(name, size, digest.hexdigest()))
    return files


def commit_result(output: str, result: StageResult) -> StageResult:
    """Mark the stage's work at `output` as done; returns `result`."""
    with commit_part(output, _RESULT) as part:
        part.files.update({file.name: file for file in result.files})
        part.metrics.update(metrics=result.metrics, engine=result.engine)
    return result


def committed_result(output: str) -> StageResult | None:
    """The result that `commit_result` left at `output`, if all its files are still there; else None."""
    part = committed_part(output, _RESULT)
    if part is None:
        return None
    try:
        for file in part.files.values():
            check_size(output, file)
    except CorruptArtifact:
        return None
    return StageResult(part.metrics["metrics"], list(part.files.values()), part.metrics["engine"])
