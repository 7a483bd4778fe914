"""Run one function on every rank of a training job: under Ray Train, or in plain processes.

All of Ray Train lives here. A training stage is written as one function `(worker, job) -> result`, where the job is a
frozen dataclass of the stage's own. The function knows its rank and its device, and nothing of Ray. `run_workers`
starts it on a Ray cluster; `run_in_process` runs it where there is no Ray, by itself or under `torchrun`. Both return
what rank 0 returned, under the type that the function declares.

When a worker dies, all workers are started again, and the function goes on from its newest committed checkpoint
(`training/checkpoint/store.py`). An error that was raised on purpose (any `RaymillError` but a store's) is not tried
again, since it would only be raised again.
"""

from __future__ import annotations

import atexit
import itertools
import os
import queue
import random
import shutil
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from cluster.contracts.artifacts import StageContext
from cluster.contracts.config import WorkerGroup
from cluster.contracts.errors import RaymillError, ResourceError, StageFailed, StorageError
from cluster.contracts.progress import Progress, SilentProgress
from training.launch.host_memory import keep_freed_memory
from training.launch.standing_group import STANDING_GROUPS, GroupEnded, worker_environment
from training.launch.watchdog import Heartbeat, Watchdog

# How long a rank waits in a collective of a plain process group (s), at least: Ray Train's default, since an export by
# one rank takes long.
_GROUP_TIMEOUT_S = 1800.0
_HUNG = 70  # exit status of a plain process that waited in vain for another rank


@dataclass(frozen=True)
class Worker:
    """One rank of a training job, with the process group already up."""

    rank: int
    world_size: int
    local_rank: int  # among the ranks of this machine
    device: torch.device
    num_threads: int
    progress: Progress  # silent on all ranks but 0
    scratch: Path  # a local directory of this rank alone, removed afterwards
    heart: Heartbeat  # `heart.beat("...")` tells the watchdog that this rank moves
    closing: ExitStack  # what must end when the function returns or raises; scratch is still there then

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()

    def share(self, number: int) -> int:
        """Rank 0's `number`, on every rank."""
        box = torch.tensor([number], device=self.device)
        dist.broadcast(box, src=0)
        return int(box.item())

    def agree(self, flag: bool) -> bool:
        """Whether `flag` holds on every rank."""
        votes = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
        return bool(votes.item())


Job = TypeVar("Job")  # what each worker is told: a frozen dataclass that can be pickled
Result = TypeVar("Result")  # what rank 0 gives back; must be picklable as well
# Runs on every rank. Rank 0 returns the result; what the other ranks return is dropped, so they return None.
WorkerFunction: TypeAlias = Callable[[Worker, Job], Result | None]
CommittedSteps = Callable[[], Sequence[int]]  # the steps of the checkpoints there are


def no_checkpoints() -> Sequence[int]:
    """`CommittedSteps` of a stage without checkpoints: every restart begins where the last one did."""
    return ()


class Launcher(Protocol):
    """What a stage starts its workers with: `run_workers` or `run_in_process`."""

    def __call__(
        self,
        function: WorkerFunction[Job, Result],
        job: Job,
        group: WorkerGroup,
        context: StageContext,
        *,
        committed_steps: CommittedSteps = ...,
    ) -> Result: ...


class WorkerFailure(Exception):
    """What a worker sends home: its rank, the cause in one line, the full trace, and whether it is deliberate.

    With `hang` the cause names the rank that hangs, which need not be the one that noticed.
    """

    def __init__(self, rank: int, cause: str, trace: str, deliberate: RaymillError | None, hang: bool = False) -> None:
        super().__init__(cause if hang else f"rank {rank}: {cause}")
        self.rank, self.cause, self.trace, self.deliberate, self.hang = rank, cause, trace, deliberate, hang

    def __reduce__(self) -> tuple[Any, ...]:
        return (WorkerFailure, (self.rank, self.cause, self.trace, self.deliberate, self.hang))


# ---------------------------------------------------------------------------------------------- Ray Train


def run_workers(
    function: WorkerFunction[Job, Result],
    job: Job,
    group: WorkerGroup,
    context: StageContext,
    *,
    committed_steps: CommittedSteps = no_checkpoints,
) -> Result:
    """Run `function(worker, job)` on `group.num_workers` Ray Train workers; returns what rank 0 returned.

    `function`, `job` and the result must be picklable. Needs a connected Ray. Raises `StageFailed` with the rank
    and the essential cause once `group.max_failures` restarts in a row brought no progress (the traces are in
    `<log_directory>/<stage>-workers.log`), `ResourceError` where the cluster never had room, and a
    worker's deliberate error as it is, without a restart.

    The workers are those of the stage before where they stand ready (`training.launch.standing_group`).

    Progress is a step in `committed_steps()` beyond all that stood there at an earlier failure, so a rewind is none.
    """
    furthest, in_vain = _furthest(committed_steps), 0
    for restarts in itertools.count():
        outcome = _fit(function, job, group, context)
        if not isinstance(outcome, _Failure):
            return outcome
        log = _write_log(context, restarts, outcome.trace)
        if outcome.deliberate is not None:
            raise outcome.deliberate
        if (reached := _furthest(committed_steps)) > furthest:
            furthest, in_vain = reached, 0
        if in_vain == group.max_failures:
            raise StageFailed(
                f"stage {context.name!r} failed: {outcome.cause}\n"
                f"    after {in_vain} restarts (workers.max_failures) without progress, {restarts} in all; "
                f"the full trace is in {log}"
            )
        in_vain += 1
        context.progress.note(
            f"{outcome.cause}; starting the workers again ({in_vain} of {group.max_failures} restarts without progress)"
        )
    raise AssertionError("unreachable")


def _furthest(committed_steps: CommittedSteps) -> int:
    """The furthest committed step; -1 where there is none, or the store doesn't answer, which is no progress."""
    try:
        return max(committed_steps(), default=-1)
    except StorageError:
        return -1


@dataclass(frozen=True)
class _Failure:
    cause: str
    trace: str
    deliberate: RaymillError | None


@dataclass(frozen=True)
class _RayEntry(Generic[Job, Result]):
    """What Ray Train calls on each worker; it keeps what rank 0 returns."""

    function: WorkerFunction[Job, Result]
    job: Job
    group: WorkerGroup
    context: StageContext

    def __call__(self) -> Result | None:
        from ray import train
        from ray.train.torch import get_device

        place = train.get_context()
        rank, world_size, local_rank = place.get_world_rank(), place.get_world_size(), place.get_local_rank()
        device = get_device()
        # The work has a thread of its own, since nothing can reach a thread that hangs in a collective.
        outcome: queue.SimpleQueue[Result | WorkerFailure | None] = queue.SimpleQueue()

        def alarm(message: str) -> None:
            outcome.put(WorkerFailure(rank, message, message, deliberate=None, hang=True))

        def work() -> None:
            try:
                with _worker(rank, world_size, local_rank, device, self.group, self.context, alarm) as worker:
                    result = self.function(worker, self.job)
                outcome.put(result if worker.is_main else None)
            except BaseException as error:
                # A store that failed may answer again; any other error raised on purpose would be raised again.
                deliberate = error if isinstance(error, RaymillError) and not isinstance(error, StorageError) else None
                outcome.put(WorkerFailure(rank, _one_line(error), traceback.format_exc(), deliberate))

        threading.Thread(target=work, daemon=True, name="raymill-rank").start()
        ended = outcome.get()
        if isinstance(ended, WorkerFailure):
            raise ended
        return ended


def _fit(
    function: WorkerFunction[Job, Result], job: Job, group: WorkerGroup, context: StageContext
) -> Result | _Failure:
    """One attempt on a worker group: what rank 0 returned, or how the group failed."""
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    try:
        result: Result = STANDING_GROUPS.run(_RayEntry(function, job, group, context), group)
        return result
    except GroupEnded as ended:
        error = ended.cause
    if isinstance(error, WorkerGroupError):
        return _essential_failure(error.worker_failures)
    if isinstance(error, ControllerError):
        if "Timeout" in type(error.controller_failure).__name__:
            raise ResourceError(
                f"stage {context.name!r} waited in vain for {group.num_workers} workers of {group.cpus} CPU and "
                f"{group.gpus} GPU each; lower workers.num_workers or workers.cpus, or add machines"
            ) from error
        return _Failure(_one_line(error.controller_failure), str(error), None)
    return _Failure(_one_line(error) if error is not None else "its workers ended by themselves", repr(error), None)


def _essential_failure(failures: Mapping[int, Exception]) -> _Failure:
    """The failure that explains the others.

    A rank that dies breaks its peers' collectives within moments, so a peer's broken connection is
    only named where nobody reports anything else.
    """
    trace = "\n".join(
        f"--- rank {rank} ---\n{error.trace if isinstance(error, WorkerFailure) else error!r}"
        for rank, error in sorted(failures.items())
    )

    def importance(item: tuple[int, Exception]) -> tuple[int, int]:
        rank, error = item
        if isinstance(error, WorkerFailure):
            if error.deliberate is not None or error.hang:
                return (0, rank)
            collateral = "onnection" in error.cause or "gloo" in error.cause or "NCCL" in error.cause
            return (3 if collateral else 1, rank)
        return (2, rank)

    rank, error = min(failures.items(), key=importance)
    if isinstance(error, WorkerFailure):
        return _Failure(str(error), trace, error.deliberate)
    return _Failure(f"rank {rank}: its process died (killed, out of memory, or its machine was lost)", trace, None)


# ------------------------------------------------------------------------------------------ plain processes


def run_in_process(
    function: WorkerFunction[Job, Result],
    job: Job,
    group: WorkerGroup,
    context: StageContext,
    *,
    committed_steps: CommittedSteps = no_checkpoints,
) -> Result:
    """Run `function` in this process: as one rank of `torchrun` where it started us, else as the only one.

    Needs no Ray. Under `torchrun`, every process calls this, and every process gets what rank 0 returned. Errors
    pass through as they are; there are no restarts, so `committed_steps` is not asked. Raises `StageFailed` if
    `group.num_workers` isn't the number of processes there are.
    """
    # Libraries leave RANK and WORLD_SIZE behind in the environment; the address is torchrun's own.
    under_torchrun = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    rank, world_size = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE")) if under_torchrun else (0, 1)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if world_size != group.num_workers:
        raise StageFailed(
            f"stage {context.name!r} asks for workers.num_workers: {group.num_workers}, and this is a group of "
            f"{world_size} process(es); set num_workers to that, or start torchrun with --nproc-per-node"
        )
    for name, value in worker_environment(group).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed asks for it
    device = torch.device("cuda", local_rank) if group.gpus > 0 else torch.device("cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"stage {context.name!r} asks for {group.gpus} GPU per worker; this machine has none")
    if not dist.is_initialized():
        address = "env://" if under_torchrun else f"tcp://127.0.0.1:{_free_port()}"
        timeout = timedelta(seconds=max(_GROUP_TIMEOUT_S, 2 * group.hang_timeout_s))  # the watchdog speaks first
        dist.init_process_group(_backend(group), init_method=address, rank=rank, world_size=world_size, timeout=timeout)
        # One group for the life of the process: DeepSpeed keeps hold of the first it saw.
        atexit.register(_close_process_group)

    def alarm(message: str) -> None:
        context.progress.note(f"rank {rank}: {message}")
        os._exit(_HUNG)

    # A process by itself may stand in a debugger, and whoever started it sees where it stops.
    watched = alarm if world_size > 1 else None
    with _worker(rank, world_size, local_rank, device, group, context, watched) as worker:
        box: list[Any] = [function(worker, job)]
        dist.broadcast_object_list(box, src=0, device=device)
        result: Result = box[0]
        return result


# --------------------------------------------------------------------------------------------------- shared


@contextmanager
def _worker(
    rank: int,
    world_size: int,
    local_rank: int,
    device: torch.device,
    group: WorkerGroup,
    context: StageContext,
    alarm: Callable[[str], None] | None,
) -> Iterator[Worker]:
    """Set threads, seeds and device, before any work on tensors, and hand out the `Worker`, watched over.

    `alarm` gets a message where this rank has not moved for `group.hang_timeout_s`; None: it is not watched.
    """
    torch.set_num_threads(group.num_threads)
    random.seed(context.seed)
    np.random.seed(context.seed % 2**32)  # noqa: NPY002 (libraries below draw from it)
    torch.manual_seed(context.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)  # of an earlier stage in this process
    else:
        keep_freed_memory()
    scratch = context.scratch / f"{context.name}-rank{rank}-{uuid.uuid4().hex[:8]}"
    scratch.mkdir(parents=True)
    progress = context.progress if rank == 0 else SilentProgress()
    heart = Heartbeat()
    watch: AbstractContextManager[object] = nullcontext()
    if alarm is not None:
        watch = Watchdog(heart, rank=rank, world_size=world_size, timeout_s=group.hang_timeout_s, alarm=alarm)
    try:
        with watch, ExitStack() as closing:
            yield Worker(rank, world_size, local_rank, device, group.num_threads, progress, scratch, heart, closing)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _backend(group: WorkerGroup) -> str:
    return "nccl" if group.gpus > 0 else "gloo"


def _close_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _write_log(context: StageContext, restarts: int, trace: str) -> Path:
    context.log_directory.mkdir(parents=True, exist_ok=True)
    log = context.log_directory / f"{context.name}-workers.log"
    with open(log, "a") as stream:
        stream.write(f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} start {restarts + 1} failed ===\n{trace}\n")
    return log


def share(rows: Sequence[Any], worker: Worker) -> list[Any]:
    """This rank's share of `rows`: every `world_size`-th one."""
    return list(rows[worker.rank :: worker.world_size])


def sum_over_ranks(worker: Worker, *values: float) -> list[float]:
    """Each value summed over all ranks."""
    sums = torch.tensor(values, dtype=torch.float64, device=worker.device)
    dist.all_reduce(sums)
    return [float(value) for value in sums]


def gather_over_ranks(worker: Worker, values: Sequence[Any]) -> list[Any]:
    """The values of all ranks; `share`d rows come back in the order 0, W, 2W, ..., 1, W+1, ... ."""
    parts: list[Any] = [None] * worker.world_size
    dist.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


def in_order(gathered: Sequence[Any], worker: Worker) -> list[Any]:
    """What `gather_over_ranks` gave of `share`d rows, in the order of the rows."""
    places = [place for rank in range(worker.world_size) for place in range(rank, len(gathered), worker.world_size)]
    ordered: list[Any] = [None] * len(gathered)
    for place, value in zip(places, gathered, strict=True):
        ordered[place] = value
    return ordered
