"""A run: one JSON file that says which spec, and which artifact each of its stages became.

`<storage>/runs/<name>.json` is what `serve`, `chat` and `report` take; the report stands beside it in
`<storage>/runs/<name>/`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, open_artifact
from cluster.contracts.errors import InputError, ResourceError

DEFAULT_STORAGE = "store"  # what the specs in job_specs/ write to, seen from the project's root


@dataclass(frozen=True)
class RunStage:
    """What one stage of a run became."""

    kind: str
    uri: str
    fingerprint: str
    finished: bool


@dataclass(frozen=True)
class RunRecord:
    """A run, finished or not."""

    name: str
    spec: dict[str, Any]  # as resolved, defaults included
    stages: dict[str, RunStage] = field(default_factory=dict)

    @property
    def storage(self) -> str:
        return str(self.spec["storage"])

    def artifacts(self) -> dict[str, Artifact]:
        """The finished stages' artifacts, in the run's order."""
        return {name: open_artifact(stage.uri) for name, stage in self.stages.items() if stage.finished}

    def newest_of(self, *kinds: str) -> RunStage | None:
        """The last finished stage of the first of `kinds` of which the run has one; None where it has none of any."""
        for kind in kinds:
            found = [stage for stage in self.stages.values() if stage.kind == kind and stage.finished]
            if found:
                return found[-1]
        return None


def run_uri(storage_uri: str, name: str, *parts: str) -> str:
    """`<storage>/runs/<name>.json`, or something in the run's own directory."""
    if parts:
        return storage.join(storage_uri, "runs", name, *parts)
    return storage.join(storage_uri, "runs", f"{name}.json")


def write_run(record: RunRecord) -> None:
    """Save a run's record, atomically."""
    content = json.dumps(asdict(record), indent=2, default=str)
    storage.write_bytes(run_uri(record.storage, record.name), content.encode())


def read_run(name_or_path: str, storage_uri: str) -> RunRecord:
    """The run of that name in `storage_uri`, or the run file at that path. Raises `InputError`."""
    is_path = name_or_path.endswith(".json") or "://" in name_or_path
    uri = name_or_path if is_path else run_uri(storage_uri, name_or_path)
    try:
        raw = json.loads(storage.read_bytes(uri))
        stages = {name: RunStage(**values) for name, values in raw["stages"].items()}
        return RunRecord(raw["name"], raw["spec"], stages)
    except FileNotFoundError as error:
        found = storage.list_files(storage.join(storage_uri, "runs"))
        names = [f.uri.rsplit("/", 1)[1].removesuffix(".json") for f in found if f.uri.endswith(".json")]
        raise InputError(
            f"there is no run at {uri}; runs in {storage_uri}: {', '.join(names) or 'none'}. "
            "Give a run's name (with --storage, where the run is in another one) or the path of its .json file."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri} is not a run file: {error}") from error


@contextmanager
def run_lock(storage_uri: str, name: str) -> Iterator[None]:
    """Keep a second driver off the same run. Local storage only; the lock dies with its process."""
    with _file_lock(run_uri(storage_uri, name, "driver.lock"), f"run {name!r} is being driven"):
        yield


@contextmanager
def artifact_lock(uri: str) -> Iterator[None]:
    """Keep two runs from making the same artifact at once; runs share artifacts by fingerprint."""
    with _file_lock(storage.join(uri, "stage.lock"), f"{uri} is being made"):
        yield


@contextmanager
def _file_lock(uri: str, what: str) -> Iterator[None]:
    if not storage.is_local(uri):
        yield
        return
    path: Path = storage.local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise ResourceError(
                f"{what} by process {stream.read() or '?'} already; wait for it or end it, and run this again"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
