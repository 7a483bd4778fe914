"""Checkpoints that are whole or absent: each rank commits its files, then rank 0 commits the step.

All training stages keep their checkpoints in a `CheckpointStore`: where they lie below the stage's output, which of
them stay, and what a run with another number of workers is told is decided here.

Layout below the store's URI (local or object store; see `cluster/contracts/commit.py` for the protocol):

    step-00000040/<rank files>, step-00000040/_committed/rank-00000.<attempt>.json, ...    one part per rank
    _committed/step-00000040.json      names, sizes, SHA-256 of all files, world size, and the loop's own state

Only the last makes the step exist. Sizes are checked when a step is looked for, SHA-256 when it is loaded. A step that
fails either check is passed over, with a message, for the one before it. The module knows neither Ray nor DeepSpeed:
what the files hold is the caller's affair.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

from cluster.contracts import storage
from cluster.contracts.commit import (
    MARKERS,
    CommittedPart,
    WrittenFile,
    check_size,
    commit_part,
    committed_part,
)
from cluster.contracts.errors import CorruptArtifact, StageFailed, StorageError
from cluster.contracts.retry import retrying

Note = Callable[[str], None]
FileWriter = Callable[[BinaryIO], object]  # writes one file's content
NEWEST_KEPT = 2  # one to go on from, and one before it, should that turn out to be damaged
_CHECKPOINTS = "checkpoints"  # the directory below a stage's output
_REWINDS = "rewinds"
_UNREADABLE = (CorruptArtifact, ValueError, KeyError, TypeError)  # what a torn marker or a missing file raises
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
    """The checkpoints of one training run: the newest `keep`, every `keep_every_steps`-th and the `keep_best` best.

    The best are those with the lowest `heldout_loss` in their state; steps without one are no candidates. When the run
    ends (`clear`), those of the first kind go, and the others stay.
    """

    def __init__(
        self, uri: str, *, keep: int = NEWEST_KEPT, keep_every_steps: int | None = None, keep_best: int = 0
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least the newest checkpoint must stay")
        self.uri, self.keep = uri, keep
        self.keep_every_steps, self.keep_best = keep_every_steps, keep_best
        self._passed_over: set[int] = set()  # steps newer than the one restored, which not all ranks could load
        self._heldout_losses: dict[int, float | None] = {}  # by step, as far as read

    @classmethod
    def of_stage(
        cls, output: str, *, keep: int = NEWEST_KEPT, keep_every_steps: int | None = None, keep_best: int = 0
    ) -> Self:
        """The checkpoints of the stage that writes to `output`; see the class for which of them stay."""
        uri = storage.join(output, _CHECKPOINTS)
        return cls(uri, keep=keep, keep_every_steps=keep_every_steps, keep_best=keep_best)

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

        On rank 0 this returns once the step exists and older ones are pruned, on the others once all ranks' files are
        there. `state` is taken from rank 0 and must be JSON.
        """
        files = {
            file.relative_to(local_directory).as_posix(): partial(_copy_file, file)
            for file in local_directory.rglob("*")
            if file.is_file()
        }
        self.commit_rank(step, files, rank=rank)
        barrier()
        if rank == 0:
            self.commit_step(step, world_size=world_size, state=state)

    def commit_rank(self, step: int, files: Mapping[str, FileWriter], *, rank: int, attempt: str = "") -> None:
        """Commit one rank's part of `step`: `files` by name, each written by the function given for it."""
        with commit_part(self._directory(step), _rank_key(rank, attempt)) as part:
            for name in sorted(files):
                # Two directories may hold files of one name.
                with part.open(name, name.replace("/", ".")) as sink:
                    files[name](sink)

    def commit_step(
        self,
        step: int,
        *,
        world_size: int,
        attempt: str = "",
        state: Mapping[str, Any] | None = None,
        deadline: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Make `step` exist from the parts that all ranks committed under `attempt`, and prune older ones.

        Parts that are not there yet are waited for until `time.monotonic()` passes `deadline()`, which may move.
        Raises `StorageError` that names the ranks still missing then. `state` must be JSON.
        """
        parts: dict[int, CommittedPart] = {}
        pause_s = 0.02
        while True:
            for rank in sorted(set(range(world_size)) - set(parts)):
                part = committed_part(self._directory(step), _rank_key(rank, attempt))
                if part is not None:
                    parts[rank] = part
            missing = sorted(set(range(world_size)) - set(parts))
            if not missing:
                break
            if time.monotonic() > deadline():
                raise StorageError(
                    f"checkpoint of step {step}: no files came from rank {', '.join(map(str, missing))} of "
                    f"{world_size}, so it is not committed; is {self.uri} one store for all machines?"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
        storage.delete_file(self._rewind_uri(step))  # of an earlier time here: this state is newer
        files = [asdict(file) for rank in range(world_size) for file in self._rank_files(step, rank, parts[rank])]
        with commit_part(self.uri, _step_key(step)) as marker:
            marker.metrics.update(world_size=world_size, state=dict(state or {}), files=files)
        self._heldout_losses.pop(step, None)
        self._prune(step)

    def steps(self) -> list[int]:
        """All committed steps, oldest first, intact or not."""
        names = (f.uri.rsplit("/", 1)[1] for f in storage.list_files(storage.join(self.uri, MARKERS)))
        return sorted(int(match[1]) for match in map(_MARKER.fullmatch, names) if match)

    def latest(self, *, note: Note = lambda message: None) -> Checkpoint | None:
        """The newest step whose files all have the size they were committed with."""
        return next(self._intact(note), None)

    def require_world_size(self, num_workers: int) -> None:
        """Raise `StageFailed` if the newest checkpoint was written by another number of workers than `num_workers`.

        For stages whose checkpoints fit the number of ranks that wrote them, and no other.
        """
        checkpoint = self.latest()
        if checkpoint is not None and checkpoint.world_size != num_workers:
            raise StageFailed(
                f"the checkpoint of step {checkpoint.step} was written by {checkpoint.world_size} workers and doesn't "
                f"fit {num_workers}; set workers.num_workers to {checkpoint.world_size}, or remove {self.uri} to start "
                "over"
            )

    def load(self, step: int, target: Path, *, ranks: Collection[int] | None = None) -> Checkpoint:
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
        ranks: Callable[[Checkpoint], Collection[int]] = lambda checkpoint: range(checkpoint.world_size),
        at_most: int | None = None,
        share: Callable[[int], int] = lambda step: step,
        agree: Callable[[bool], bool] = lambda ok: ok,
        note: Note = lambda message: None,
    ) -> Checkpoint | None:
        """Load the newest step (up to `at_most`) that is intact on every rank; None where there is none.

        Every rank calls it. `ranks` tells of a checkpoint which ranks' files are needed here. `share` gives every rank
        rank 0's choice (`Worker.share`), since stores may list new files later to one machine than to another; `agree`
        answers whether all ranks could load it (`Worker.agree`), even where only one of them finds a corrupt file.
        """
        bound = math.inf if at_most is None else at_most + 1
        said: set[str] = set()
        passed_over: set[int] = set()

        def note_once(message: str) -> None:
            if message not in said:
                said.add(message)
                note(message)

        while True:
            mine = next((checkpoint.step for checkpoint in self._intact(note_once) if checkpoint.step < bound), -1)
            step = share(mine)
            if step < 0:
                return None
            try:
                checkpoint = self._parse(committed_part(self.uri, _step_key(step)), step)
                self.load(step, target, ranks=ranks(checkpoint))
                loaded = True
            except CorruptArtifact as error:
                note(f"checkpoint of step {step} is corrupt ({error}); using the one before it")
                loaded = False
            if agree(loaded):
                self._passed_over = passed_over
                return checkpoint
            passed_over.add(step)
            shutil.rmtree(target, ignore_errors=True)
            bound = step

    def rewind(self, step: int, state: Mapping[str, Any]) -> None:
        """Forget the steps after `step`, and keep `state` for whoever goes on from it. Called on one rank.

        This is for a run that goes back on purpose. Without it, a kill before the next checkpoint would bring the run
        back to the steps that it left behind.
        """
        storage.write_bytes(self._rewind_uri(step), json.dumps(dict(state)).encode())
        for file in storage.list_files(storage.join(self.uri, _REWINDS)):
            if file.uri.rsplit("/", 1)[1] > f"{_step_key(step)}.json":
                storage.delete_file(file.uri)
        for later in self.steps():
            if later > step:
                self._remove_marker(later)
                storage.delete_directory(self._directory(later))

    def rewound(self, step: int) -> Mapping[str, Any] | None:
        """The state that `rewind` kept for `step`; None where the run never went back to it."""
        uri = self._rewind_uri(step)
        state: Mapping[str, Any] | None = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else None
        return state

    def clear(self) -> None:
        """End the run: remove all checkpoints but those that `keep_every_steps` and `keep_best` keep.

        Markers go first, so none is ever seen without its files.
        """
        steps = self.steps()
        kept = self._chosen(steps)
        for step in steps:
            if step not in kept:
                self._remove_marker(step)
        if kept:
            self._sweep(kept, newest=None)
            storage.delete_directory(storage.join(self.uri, _REWINDS))
        else:
            storage.delete_directory(self.uri)

    # ------------------------------------------------------------------------------------------------------

    def _rewind_uri(self, step: int) -> str:
        return storage.join(self.uri, _REWINDS, f"{_step_key(step)}.json")

    def _remove_marker(self, step: int) -> None:
        storage.delete_file(storage.join(self.uri, MARKERS, f"{_step_key(step)}.json"))

    def _directory(self, step: int) -> str:
        return storage.join(self.uri, _step_key(step))

    def _rank_files(self, step: int, rank: int, part: CommittedPart) -> Iterator[RankFile]:
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
            except _UNREADABLE as error:
                note(f"checkpoint of step {step} is not whole ({error}); using the one before it")
                continue
            yield checkpoint

    def _fetch(self, file: RankFile, target: Path) -> None:
        if storage.is_local(self.uri):
            self._fetch_once(file, target)
        else:
            retrying(
                partial(self._fetch_once, file, target),
                storage.PATIENCE,
                asked=f"read {file.written.name} of {self.uri}",
            )

    def _fetch_once(self, file: RankFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        filesystem, path = storage.locate(check_size(self.uri, file.written))
        digest = hashlib.sha256()
        with filesystem.open_input_stream(path, compression=None) as source, open(target, "wb") as sink:
            while chunk := source.read(1 << 22):
                digest.update(chunk)
                sink.write(chunk)
        if digest.hexdigest() != file.written.sha256:
            raise CorruptArtifact(f"{file.written.name} has SHA-256 {digest.hexdigest()}, not {file.written.sha256}")

    def _chosen(self, steps: Sequence[int]) -> set[int]:
        """Those of `steps` that outlive the run: every `keep_every_steps`-th and the `keep_best` best."""
        chosen = {step for step in steps if self.keep_every_steps is not None and step % self.keep_every_steps == 0}
        measured = ((self._heldout_loss(step), step) for step in steps)
        losses = sorted((loss, step) for loss, step in measured if loss is not None and math.isfinite(loss))
        return chosen | {step for _, step in losses[: self.keep_best]}

    def _heldout_loss(self, step: int) -> float | None:
        if not self.keep_best:
            return None
        if step not in self._heldout_losses:
            try:
                state = self._parse(committed_part(self.uri, _step_key(step)), step).state
            except _UNREADABLE:
                return None
            self._heldout_losses[step] = state.get("heldout_loss")
        return self._heldout_losses[step]

    def _prune(self, newest: int) -> None:
        """Remove what is not to be kept, and the directories of attempts that never committed theirs.

        Nothing is removed where that would leave no intact step.
        """
        self._passed_over.discard(newest)
        steps = self.steps()
        sound = [step for step in steps if step not in self._passed_over]  # the others would push these out
        kept = set(sound[-self.keep :]) | self._chosen(steps)
        if not any(step in kept for step in (c.step for c in self._intact(lambda message: None))):
            return
        for step in steps:
            if step not in kept:
                self._remove_marker(step)
        self._sweep(kept, newest=newest)

    def _sweep(self, kept: Set[int], *, newest: int | None) -> None:
        """Remove the directories of steps not in `kept`, up to step `newest`: later ones are being written."""
        names = {f.uri[len(self.uri) :].lstrip("/").split("/")[0] for f in storage.list_files(self.uri, recursive=True)}
        for name in names - {_step_key(step) for step in kept}:
            if name.startswith("step-") and (newest is None or int(name.removeprefix("step-")) <= newest):
                storage.delete_directory(storage.join(self.uri, name))


def _step_key(step: int) -> str:
    return f"step-{step:08d}"


def _rank_key(rank: int, attempt: str) -> str:
    return f"rank-{rank:05d}.{attempt}" if attempt else f"rank-{rank:05d}"


def _copy_file(source: Path, sink: BinaryIO) -> None:
    with open(source, "rb") as stream:
        shutil.copyfileobj(stream, sink, 1 << 20)
