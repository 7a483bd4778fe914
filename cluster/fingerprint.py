"""What names an artifact: a hash of all that determines its content, and of nothing else.

In: the stage's kind and version, its settings, the seed, its inputs' fingerprints, its raw inputs (name, size
and mtime/ETag, or SHA-256 where the spec asks). Out: whatever cannot change results: resources, micro-batches,
directories, logging. So a result is never overwritten, a re-run finds what is there, and a changed setting
reruns its stage and what depends on it, no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from cluster.contracts import storage
from cluster.contracts.config import StageConfig, set_at
from cluster.contracts.source_names import common_directory, input_directories

HEX_DIGITS = 16  # 64 bits: at a million artifacts, one chance in 37 million of any collision


def digest(value: Any) -> str:
    """A short stable hash of plain values, independent of the order of keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:HEX_DIGITS]


def result_settings(config: StageConfig) -> dict[str, Any]:
    """The settings of a stage that change its results.

    Inputs, raw paths and the fields made with `not_in_fingerprint` are not among them.

    Where a setting names files, the content of these stands for it.
    """
    left_out = {*config.fields_not_in_fingerprint(), *config.input_fields(), *config.file_fields()}
    settings = config.model_dump(mode="json", exclude=left_out)
    for path, patterns in config.reference_files().items():
        files = (file for pattern in patterns for file in storage.expand(pattern))
        set_at(settings, path, sorted(_content_hash(file.uri) for file in files))
    return settings


def settings_fingerprint(config: StageConfig, seed: int) -> str:
    """Names what is shared by all artifacts of one kind made with the same settings, whatever their inputs."""
    return digest({"version": config.stage_version, "settings": result_settings(config), "seed": _seed(config, seed)})


def stage_fingerprint(
    config: StageConfig,
    *,
    seed: int,
    inputs: Mapping[str, str],
    files: Mapping[str, Iterable[tuple[str, Any]]],
) -> str:
    """`inputs`: role -> fingerprint; `files`: field -> (name, identity) of each raw input, in order."""
    return digest(
        {
            "kind": config.kind,
            "version": config.stage_version,
            "settings": result_settings(config),
            "seed": _seed(config, seed),
            "inputs": dict(inputs),
            "files": {field: list(entries) for field, entries in files.items()},
        }
    )


def file_identities(patterns: Iterable[str], how: Literal["stat", "content"]) -> list[tuple[str, Any]]:
    """(name, what tells its version) of each file that the patterns match, sorted by URI.

    The name is the path below the directory of all files, in brackets that of its own pattern's files: clean keeps
    the inputs apart. So a whole data directory may move. A file that is matched twice stands twice: some stages read
    it twice.
    """
    matched = [storage.expand(pattern) for pattern in patterns]
    found = sorted((file for files in matched for file in files), key=lambda file: file.uri)
    directories = input_directories([file.uri for file in files] for files in matched)
    root = common_directory(file.uri for file in found) if found else ""

    def name(uri: str) -> str:
        return f"{uri[len(root) :]} ({directories[uri][len(root) :]})"

    if how == "content":
        return [(name(file.uri), _content_hash(file.uri)) for file in found]
    return [(name(file.uri), [file.size, file.mtime_ns]) for file in found]


def directory_fingerprint(uri: str) -> str:
    """Names a model or artifact directory that no stage of the spec made, by its files' names, sizes and times."""
    files = storage.list_files(uri, recursive=True)
    return digest([[f.uri[len(uri) :], f.size, f.mtime_ns] for f in files])


def _seed(config: StageConfig, seed: int) -> int | None:
    return seed if config.uses_seed else None


def _content_hash(uri: str) -> str:
    filesystem, path = storage.locate(uri)
    hasher = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()
