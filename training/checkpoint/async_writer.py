"""Writes checkpoints while training goes on.

Training stands still only while a snapshot is taken in host memory (`training/engine/host_snapshot.py`). Then a thread
of each rank serialises, hashes and stores that rank's part. Rank 0's thread also waits until the store holds every
rank's part, and commits the step.

The threads of different ranks speak to one another through the store alone, since collectives from a second thread
would mix with those of the training step. A part bears a name of its own: the attempt's, which the ranks agree on once
(`agreed_attempt`), and the number of the save. So a part from an earlier start of the workers, or from a step that was
saved before the run went back, is never taken for a new one.

One checkpoint is under way at a time. The next one waits for it, and that wait counts as stall. An error in the thread
is raised by the next call. A kill at any moment leaves the step absent or whole (`training/checkpoint/store.py`).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from cluster.contracts import storage
from cluster.contracts.retry import retrying
from training.checkpoint.store import CheckpointStore, FileWriter

# A rank may still have to upload its whole part when rank 0 has stored its own.
PARTS_TIMEOUT_S = 1800.0
# What an attempt that failed gives the other ranks to end the checkpoint that was under way.
FAILED_TIMEOUT_S = 10.0


def agreed_attempt() -> str:
    """A name for this start of the workers that all ranks get alike. Collective; the process group must be up."""
    box = [uuid.uuid4().hex[:12]]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu" if dist.get_backend() == "gloo" else "cuda"))
    return box[0]


class CheckpointWriter:
    """Writes one rank's checkpoints into a `CheckpointStore`: behind training, or while it waits (not `asynchronous`).

    A context manager: leaving it waits for the checkpoint under way, also on an exception.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        rank: int = 0,
        world_size: int = 1,
        attempt: str = "only",
        asynchronous: bool = True,
        parts_timeout_s: float = PARTS_TIMEOUT_S,
    ) -> None:
        self.store, self.rank, self.world_size, self.attempt = store, rank, world_size, attempt
        self.asynchronous, self.parts_timeout_s = asynchronous, parts_timeout_s
        self._num_saves = 0  # the same on all ranks
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._deadline = 0.0  # of the other ranks' parts, on the clock of `time.monotonic`

    def save(
        self,
        step: int,
        take: Callable[[], Mapping[str, FileWriter]],
        *,
        state: Mapping[str, Any] | None = None,
        before_commit: Callable[[], object] = lambda: None,
    ) -> float:
        """Begin checkpoint `step` of this rank; every rank calls it. Returns the seconds training stood still.

        `take` gives the files (`engine.engine_files`) once the checkpoint before this one is written, so it may
        reuse that one's memory. `state` (JSON) and `before_commit`, which runs in the thread, are rank 0's.
        """
        started = time.perf_counter()
        self.wait()
        files = dict(take())
        self._deadline = time.monotonic() + self.parts_timeout_s
        self._num_saves += 1
        attempt = f"{self.attempt}-{self._num_saves}"  # a run that goes back saves a step twice

        def write() -> None:
            try:
                self._commit_rank(step, files, attempt)
                files.clear()
                if self.rank == 0:
                    before_commit()
                    self.store.commit_step(
                        step,
                        world_size=self.world_size,
                        attempt=attempt,
                        state=state,
                        deadline=lambda: self._deadline,
                    )
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=write, name=f"checkpoint-{step}", daemon=True)
        self._thread.start()
        if not self.asynchronous:
            self.wait()
        return time.perf_counter() - started

    def _commit_rank(self, step: int, files: Mapping[str, FileWriter], attempt: str) -> None:
        commit = partial(self.store.commit_rank, step, files, rank=self.rank, attempt=attempt)
        if storage.is_local(self.store.uri):
            commit()
        else:
            retrying(commit, storage.PATIENCE, asked=f"write the checkpoint of step {step} to {self.store.uri}")

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did. Does not wait for it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until the checkpoint under way is written. On rank 0 its step then exists. Raises the thread's error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
            return
        self._deadline = min(self._deadline, time.monotonic() + FAILED_TIMEOUT_S)  # the other ranks may be gone
        if self._thread is not None:
            self._thread.join()
