"""Checkpoints that are whole or absent: each rank commits its files, then rank 0 commits the step.

Layout below the store's URI (local or object store; see `cluster.contracts.commit` for the protocol):

    step-00000040/<rank files>, step-00000040/_committed/rank-00000.json, ...    one part per rank
    _committed/step-00000040.json      names, sizes, SHA-256 of all files, world size, and the loop's own state

Only the last makes the step exist. Sizes are checked when a step is looked for, SHA-256 when it is loaded;
a step that fails either is passed over, with a message, for the one before it. The module knows neither Ray
nor DeepSpeed: what the files hold is the caller's affair.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.commit import (
    MARKERS,
    CommittedPart,
    WrittenFile,
    check_size,
    commit_part,
    committed_part,
    remove_part,
)
from cluster.contracts.errors import CorruptArtifact

Note = Callable[[str], None]
_REWINDS = "rewinds"
_MARKER = re.compile(r"step-(\d{8,})\.json")


@dataclass(frozen=True)
class RankFile:
    """A file of a checkpoint: the rank that wrote it, its name there, and the committed file."""

    rank: int
    local_name: str  # relative to the directory that the rank gave to `save`
    written: WrittenFile  # name relative to the store


@dataclass(frozen=True)
class Checkpoint:
    """A committed step."""

    step: int
    world_size: int
    state: Mapping[str, Any]  # JSON: data position, metrics, whatever the loop needs besides the files
    files: tuple[RankFile, ...]


class CheckpointStore:
    """The checkpoints of one training run, the newest `keep` of them."""

    def __init__(self, uri: str, *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least the newest checkpoint must stay")
        self.uri, self.keep = uri, keep

    def save(
        self,
        step: int,
        local_directory: Path,
        *,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], object] = lambda: None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit step `step` from this rank's files; every rank calls it, with a directory of its own.

        Returns on rank 0 once the step exists (and older ones are pruned), on the others once it is about to.
        `state` is taken from rank 0 and must be JSON.
        """
        directory = self._directory(step)
        with commit_part(directory, _rank_key(rank)) as part:
            for file in sorted(p for p in local_directory.rglob("*") if p.is_file()):
                name = file.relative_to(local_directory).as_posix()
                part.add_local_file(name, file, name.replace("/", "."))  # two directories may hold files of one name
        barrier()
        if rank == 0:
            files = [asdict(f) for r in range(world_size) for f in self._rank_files(step, r)]
            with commit_part(self.uri, _step_key(step)) as marker:
                marker.metrics.update(world_size=world_size, state=dict(state or {}), files=files)
            self._prune(step)

    def steps(self) -> list[int]:
        """All committed steps, oldest first, intact or not."""
        names = (f.uri.rsplit("/", 1)[1] for f in storage.list_files(storage.join(self.uri, MARKERS)))
        return sorted(int(match[1]) for match in map(_MARKER.fullmatch, names) if match)

    def latest(self, *, note: Note = lambda message: None) -> Checkpoint | None:
        """The newest step whose files all have the size they were committed with."""
        return next(self._intact(note), None)

    def load(self, step: int, target: Path, *, ranks: tuple[int, ...] | None = None) -> Checkpoint:
        """Bring the files of `step` to the local directory `target`, of all ranks or of `ranks`.

        SHA-256 is checked on the way. Where two ranks wrote the same name, the lower rank's is taken.
        Raises `CorruptArtifact`.
        """
        checkpoint = self._parse(committed_part(self.uri, _step_key(step)), step)
        for file in reversed(checkpoint.files):
            if ranks is None or file.rank in ranks:
                self._fetch(file, target / file.local_name)
        return checkpoint

    def restore(
        self,
        target: Path,
        *,
        ranks: tuple[int, ...] | None = None,
        at_most: int | None = None,
        agree: Callable[[bool], bool] = lambda ok: ok,
        note: Note = lambda message: None,
    ) -> Checkpoint | None:
        """Load the newest step (up to `at_most`) that is intact on every rank; None where there is none.

        Every rank calls it. `agree` answers whether all ranks could load (`Worker.agree`), so they all take
        the same step even where only one of them finds a corrupt file.
        """
        for checkpoint in self._intact(note):
            if at_most is not None and checkpoint.step > at_most:
                continue
            try:
                self.load(checkpoint.step, target, ranks=ranks)
                loaded = True
            except CorruptArtifact as error:
                note(f"checkpoint of step {checkpoint.step} is corrupt ({error}); using the one before it")
                loaded = False
            if agree(loaded):
                return checkpoint
            shutil.rmtree(target, ignore_errors=True)
        return None

    def rewind(self, step: int, state: Mapping[str, Any]) -> None:
        """Forget the steps after `step`, and keep `state` for whoever goes on from it; called on one rank.

        For a run that goes back on purpose: without it, a kill before the next checkpoint would bring the old way back.
        """
        storage.write_bytes(
            storage.join(self.uri, _REWINDS, f"{_step_key(step)}.json"), json.dumps(dict(state)).encode()
        )
        for later in self.steps():
            if later > step:
                remove_part(self.uri, _step_key(later))
                storage.delete_directory(self._directory(later))

    def rewound(self, step: int) -> Mapping[str, Any] | None:
        """The state that `rewind` kept for `step`; None where the run never went back to it."""
        uri = storage.join(self.uri, _REWINDS, f"{_step_key(step)}.json")
        state: Mapping[str, Any] | None = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else None
        return state

    def clear(self) -> None:
        """Remove all checkpoints: the markers first, so none is ever seen without its files."""
        for step in self.steps():
            remove_part(self.uri, _step_key(step))
        storage.delete_directory(self.uri)

    # ------------------------------------------------------------------------------------------------------

    def _directory(self, step: int) -> str:
        return storage.join(self.uri, _step_key(step))

    def _rank_files(self, step: int, rank: int) -> Iterator[RankFile]:
        part = committed_part(self._directory(step), _rank_key(rank))
        if part is None:
            raise CorruptArtifact(f"rank {rank} committed no files for step {step} below {self.uri}")
        for local_name, file in part.files.items():
            yield RankFile(rank, local_name, WrittenFile(f"{_step_key(step)}/{file.name}", file.size, file.sha256))

    def _parse(self, part: CommittedPart | None, step: int) -> Checkpoint:
        if part is None:
            raise CorruptArtifact(f"{self.uri} has no committed step {step}")
        files = tuple(RankFile(f["rank"], f["local_name"], WrittenFile(**f["written"])) for f in part.metrics["files"])
        return Checkpoint(step, part.metrics["world_size"], part.metrics["state"], files)

    def _intact(self, note: Note) -> Iterator[Checkpoint]:
        """Committed steps, newest first, without those that have a file missing or of another size."""
        for step in reversed(self.steps()):
            try:
                checkpoint = self._parse(committed_part(self.uri, _step_key(step)), step)
                for file in checkpoint.files:
                    check_size(self.uri, file.written)
            except (CorruptArtifact, ValueError, KeyError, TypeError) as error:
                note(f"checkpoint of step {step} is not whole ({error}); using the one before it")
                continue
            yield checkpoint

    def _fetch(self, file: RankFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        filesystem, path = storage.locate(check_size(self.uri, file.written))
        digest = hashlib.sha256()
        with filesystem.open_input_stream(path, compression=None) as source, open(target, "wb") as sink:
            while chunk := source.read(1 << 22):
                digest.update(chunk)
                sink.write(chunk)
        if digest.hexdigest() != file.written.sha256:
            raise CorruptArtifact(f"{file.written.name} has SHA-256 {digest.hexdigest()}, not {file.written.sha256}")

    def _prune(self, newest: int) -> None:
        """Keep the newest `keep` steps, and drop the directories of attempts that never committed theirs."""
        for step in self.steps()[: -self.keep]:
            remove_part(self.uri, _step_key(step))
        kept = {_step_key(step) for step in self.steps()}
        names = {f.uri[len(self.uri) :].lstrip("/").split("/")[0] for f in storage.list_files(self.uri, recursive=True)}
        for name in names - kept:
            if name.startswith("step-") and int(name.removeprefix("step-")) <= newest:
                storage.delete_directory(storage.join(self.uri, name))


def _step_key(step: int) -> str:
    return f"step-{step:08d}"


def _rank_key(rank: int) -> str:
    return f"rank-{rank:05d}"
