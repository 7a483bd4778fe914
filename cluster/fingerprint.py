"""The fingerprint that names an artifact: a hash of all that determines its content, and of nothing else.

A fingerprint covers the stage's kind and version, its settings, the seed where it is used, the fingerprints of its
inputs, and its raw inputs: their names, with sizes and times of change (or ETags), or with SHA-256 where the spec asks
for it. What can't change results is left out: resources, micro-batches, directories, logging.

So a result is never overwritten, a second run finds what the first one made, and a changed setting runs its own stage
and those that depend on it, and no other.
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
    """The settings of a stage that change its results, as plain values.

    Inputs, the paths of raw inputs and fields made with `not_in_fingerprint` are left out. A setting that names files,
    such as word lists, is replaced by the hashes of their content, so that the files may move.
    """
    left_out = {*config.fields_not_in_fingerprint(), *config.input_fields(), *config.file_fields()}
    settings = config.model_dump(mode="json", exclude=left_out)
    for path in config.raw_inputs():
        if "." in path:
            set_at(settings, path, None)
    for path, patterns in config.reference_files().items():
        files = (file for pattern in patterns for file in storage.expand(pattern))
        set_at(settings, path, sorted(_content_hash(file.uri) for file in files))
    return settings


def settings_fingerprint(config: StageConfig, seed: int) -> str:
    """The name of what all artifacts of one kind and the same settings share, whatever their inputs: clean's parts."""
    return digest({"version": config.stage_version, "settings": result_settings(config), "seed": _seed(config, seed)})


def stage_fingerprint(
    config: StageConfig,
    *,
    seed: int,
    inputs: Mapping[str, str],
    files: Mapping[str, Iterable[tuple[str, Any]]],
) -> str:
    """The fingerprint of a stage's artifact: `HEX_DIGITS` hexadecimal digits.

    `inputs` maps each role to the fingerprint of the artifact that it takes. `files` maps each field of raw inputs to
    (name, identity) of its files, as `file_identities` gives them; their order counts.
    """
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
    """(name, identity) of each file that the patterns match, sorted by URI.

    The identity is [size in bytes, time of change in ns], or the SHA-256 with `how="content"`. The name is the file's
    path below the directory that holds all files, so that a whole data directory may move. The directory of its own
    pattern follows in brackets, since clean keeps the inputs of different patterns apart. A file that two patterns
    match is listed twice, since some stages read it twice.
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
    """The fingerprint of a directory that no stage made, by its files' names, sizes and times: a model of one's own."""
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
