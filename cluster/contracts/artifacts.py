"""Artifacts, which pass between stages: a directory with the files of one finished stage and its `manifest.json`.

An artifact lies at `<storage>/<kind>/<fingerprint>/`. The manifest is written last, so a directory without one is of a
stage that is not finished; it goes on from the parts that it has committed. A stage is a plain function
`(config, inputs, output, context) -> StageResult`. It knows nothing of manifests, caching and submission, which the
runner does for all stages alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import CorruptArtifact, InputError
from cluster.contracts.progress import Progress

MANIFEST = "manifest.json"
FILE_LIST = "files.parquet"
_FILE_SCHEMA = pa.schema([("name", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])


@dataclass(frozen=True)
class Manifest:
    """The record of one finished stage."""

    kind: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]  # the role of an input -> the fingerprint of its artifact
    metrics: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)  # class, zero_stage, world_size as found at run time
    timings: dict[str, float] = field(default_factory=dict)  # seconds
    versions: dict[str, str] = field(default_factory=dict)  # package -> version
    created: str = ""  # ISO 8601, UTC
    num_files: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class Artifact:
    """The directory of a finished stage and its manifest. It is what a stage gets as an input."""

    uri: str
    manifest: Manifest

    def path(self, *parts: str) -> str:
        """The URI of something in the artifact."""
        return storage.join(self.uri, *parts)

    def files(self) -> list[WrittenFile]:
        """All files that the stage wrote, from the list beside the manifest."""
        return [WrittenFile(**row) for row in storage.read_table(self.path(FILE_LIST)).to_pylist()]


@dataclass(frozen=True)
class StageResult:
    """What a stage returns: its metrics and the list of files that it wrote."""

    metrics: dict[str, Any]
    files: list[WrittenFile]
    engine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """What the runner gives a stage, beside its config and inputs."""

    name: str  # the stage's name in the spec
    progress: Progress
    scratch: Path  # a local directory of this run, which is removed at its end
    log_directory: Path  # where the output of libraries goes, instead of to the user's terminal
    seed: int = 0
    parts_directory: str = ""  # a URI for parts that all artifacts of this kind and these settings may share


StageFunction = Callable[[Any, Mapping[str, Artifact], str, StageContext], StageResult]


def write_manifest(uri: str, manifest: Manifest, files: list[WrittenFile]) -> None:
    """Finish an artifact: write the list of its files, then the manifest."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(f) for f in files], schema=_FILE_SCHEMA), sink)
    storage.write_bytes(storage.join(uri, FILE_LIST), sink.getvalue().to_pybytes())
    content = json.dumps(asdict(manifest), indent=2, sort_keys=True, default=str)
    storage.write_bytes(storage.join(uri, MANIFEST), content.encode())


def read_artifact(uri: str) -> Artifact | None:
    """The artifact at `uri`; None where none is finished. Raises `CorruptArtifact` for an unreadable manifest."""
    try:
        content = storage.read_bytes(storage.join(uri, MANIFEST))
    except FileNotFoundError:
        return None
    try:
        return Artifact(uri, Manifest(**json.loads(content)))
    except (ValueError, TypeError) as error:
        raise CorruptArtifact(
            f"{uri}/{MANIFEST} can't be read ({error}); remove the directory to redo the stage"
        ) from error


def open_artifact(uri: str, *, kind: str | None = None) -> Artifact:
    """The artifact at `uri`. Raises `InputError` where none is finished, or it is of another kind than `kind`."""
    artifact = read_artifact(uri)
    if artifact is None:
        raise InputError(f"{uri} holds no finished artifact (no {MANIFEST})")
    if kind is not None and artifact.manifest.kind != kind:
        raise InputError(f"{uri} is a {artifact.manifest.kind!r} artifact; a {kind!r} one is needed here")
    return artifact
