"""A group of Ray Train workers that does one stage's work after another.

To start a group costs 8 to 17 s on two cores: five helper processes of Ray Train, the workers' own, and their imports
of torch, DeepSpeed and TRL. A stage that needs what the one before it needed takes its workers over. To Ray Train
the whole life of a group is one training run, whose function waits for jobs (`Mailbox`) and runs them. What goes wrong
in a job ends the group, so that failures are found and told as those of a group of one job, and a restart is a new one.
A worker that dies while it waits is nobody's failure: the next job gets a new group.

On a Ray of this run's own, workers are started while stages before theirs run, and import what they will need. There
they take no CPU from the tasks of those stages: they are booked as `WAITING_WORKERS` instead of CPUs, since one stage
runs at a time and a worker that waits computes nothing.

Between two jobs a worker puts its environment back and collects its garbage; seeds and threads are set anew by every
job. What a process has imported, its process group and its allocator's host memory stay.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import shutil
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.contracts.config import WorkerGroup
from training.launch.mailbox import Mailbox

# How often Ray Train looks at its workers (s); its default of 2 is a second lost at the end of every group.
HEALTH_CHECK_INTERVAL_S = "0.25"
# Ray Train waits 60 s for workers to get their resources; after so many waits the stage gives up.
STARTUP_ATTEMPTS = 5
# How long Ray Train asks the workers of a failed group to leave their process group (s); its default of 30 is lost
# whenever one of them hangs.
SHUTDOWN_TIMEOUT_S = "5"
_POLL_S = 0.5  # how often the driver asks whether the group still lives while it waits for a result
_CLOSE_TIMEOUT_S = 30.0
# The resource by which an embedded Ray books workers, instead of CPUs. The runner has checked before that each stage's
# processes fit the machine.
WAITING_WORKERS = "raymill_worker"


@dataclass(frozen=True)
class GroupShape:
    """What makes two groups of workers the same: their resources and what must be set before libraries are loaded."""

    num_workers: int
    resources: tuple[tuple[str, float], ...]
    backend: str
    environment: tuple[tuple[str, str], ...]


def shape_of(group: WorkerGroup) -> GroupShape:
    """The shape of the workers that a stage asks for."""
    resources: dict[str, float] = {"CPU": group.cpus, "GPU": group.gpus}
    if group.memory_gib is not None:
        resources["memory"] = group.memory_gib * 2**30
    return GroupShape(
        group.num_workers,
        tuple(sorted(resources.items())),
        "nccl" if group.gpus > 0 else "gloo",
        tuple(sorted(worker_environment(group).items())),
    )


def worker_environment(group: WorkerGroup) -> dict[str, str]:
    """What must stand in the environment before torch, DeepSpeed and tokenizers are loaded."""
    return {
        "OMP_NUM_THREADS": str(group.num_threads),
        "MKL_NUM_THREADS": str(group.num_threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads steal the cores of their neighbours
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cuda" if group.gpus > 0 else "cpu",
    }


class GroupEnded(Exception):
    """The group ended before its job did.

    `cause` is what Ray Train raised, None where it ended by itself; `begun` whether all workers had begun the job.
    """

    def __init__(self, cause: BaseException | None, *, begun: bool) -> None:
        super().__init__(f"the worker group ended: {cause!r}")
        self.cause, self.begun = cause, begun


class StandingGroup:
    """Ray Train workers of one shape, started at once, in the background."""

    def __init__(self, shape: GroupShape) -> None:
        import ray

        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_INTERVAL_S)
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", SHUTDOWN_TIMEOUT_S)
        self.shape = shape
        self._directory = Path(tempfile.mkdtemp(prefix="raymill-ray-train-"))
        # Every worker may wait in a call of it, beside the driver's; Ray's own limit is 1,000 calls.
        mailbox = ray.remote(num_cpus=0, max_concurrency=shape.num_workers + 8)(Mailbox)
        self._mailbox: Any = mailbox.remote(shape.num_workers)
        self._ended = threading.Event()
        self._cause: BaseException | None = None
        # In a thread of its own, where Ray Train also leaves the process's signal handlers alone.
        self._thread = threading.Thread(target=self._fit, daemon=True, name="raymill-ray-train")
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether its workers are gone."""
        return self._ended.is_set()

    def post(self, entry: Callable[[], Any]) -> None:
        """Have every worker call `entry` before any later job, and don't wait for it."""
        import ray

        self._mailbox.post.remote([ray.put(entry)])

    def run(self, entry: Callable[[], Any]) -> Any:
        """Call `entry` on every worker; returns what it returned on rank 0. Raises `GroupEnded`."""
        import ray

        number = -1
        try:
            number = ray.get(self._mailbox.post.remote([ray.put(entry)]))
            waiting = self._mailbox.result.remote(number)
            while not self._ended.is_set():
                if ray.wait([waiting], timeout=_POLL_S)[0]:
                    return ray.get(ray.get(waiting)[0])
        except ray.exceptions.RayError as error:
            # The mailbox or rank 0 is gone; Ray Train will say what became of the workers, or never.
            self._ended.wait(_CLOSE_TIMEOUT_S)
            raise GroupEnded(self._cause or error, begun=self._has_begun(number)) from error
        raise GroupEnded(self._cause, begun=self._has_begun(number))

    def _has_begun(self, number: int) -> bool:
        """Whether all workers began a job; also where nobody can tell any more."""
        import ray

        try:
            return bool(ray.get(self._mailbox.has_begun.remote(number), timeout=_CLOSE_TIMEOUT_S))
        except ray.exceptions.RayError:
            return True

    def close(self) -> None:
        """Let the workers go, and wait until their resources are free. Workers that don't leave are killed."""
        import ray

        if not self._ended.is_set():
            try:
                ray.get(self._mailbox.close.remote(), timeout=_CLOSE_TIMEOUT_S)
                if not self._ended.wait(_CLOSE_TIMEOUT_S):
                    for worker in ray.get(self._mailbox.workers.remote(), timeout=_CLOSE_TIMEOUT_S):
                        ray.kill(worker[0])
                    self._ended.wait(_CLOSE_TIMEOUT_S)
            except ray.exceptions.RayError:
                pass
        ray.kill(self._mailbox)  # workers that still ask it fail, and their group with them
        self.abandon()

    def abandon(self) -> None:
        """Leave workers that may be at work to the end of this process's Ray."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        resources = dict(self.shape.resources)
        uses_gpu = resources["GPU"] > 0
        try:
            if _books_no_cpus():
                del resources["CPU"]
                resources[WAITING_WORKERS] = 1.0
            TorchTrainer(
                _Serve(self._mailbox),
                torch_config=TorchConfig(backend=self.shape.backend),
                scaling_config=ScalingConfig(
                    num_workers=self.shape.num_workers, use_gpu=uses_gpu, resources_per_worker=resources
                ),
                run_config=RunConfig(
                    name=f"workers-{uuid.uuid4().hex[:8]}",
                    storage_path=str(self._directory),  # Ray Train's bookkeeping; checkpoints are ours
                    # Restarts are counted in `run_workers`, which can tell deliberate errors from lost workers.
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=STARTUP_ATTEMPTS),
                    worker_runtime_env={"env_vars": dict(self.shape.environment)},
                ),
            ).fit()
        except BaseException as error:
            self._cause = error
        finally:
            self._ended.set()


@dataclass(frozen=True)
class _Serve:
    """What Ray Train calls on each worker."""

    mailbox: Any

    def __call__(self) -> None:
        import ray
        from ray import train

        rank = train.get_context().get_world_rank()
        ray.get(self.mailbox.arrive.remote(rank, [ray.get_runtime_context().current_actor]))
        for number in itertools.count():
            taken = ray.get(self.mailbox.take.remote(number))
            if taken is None:
                return
            entry = ray.get(taken[0])
            ray.get(self.mailbox.begin.remote(number, rank))
            with _environment_put_back():
                result = entry()
            # The next job's figures must not depend on when this one's engine is collected.
            gc.collect()
            _give_back_gpu_memory()
            ray.get(self.mailbox.finish.remote(number, rank, [ray.put(result)]))


def _give_back_gpu_memory() -> None:
    """Return what torch's allocator keeps of a GPU: servers of a later stage may share it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def _environment_put_back() -> Iterator[None]:
    """Undo what libraries write into the environment for their own later use: it would hold for the next job too."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@dataclass(frozen=True)
class StageNeeds:
    """What a stage that is still to run needs, as far as a standing group is concerned."""

    workers: WorkerGroup | None
    """The workers on which it runs by `run_workers`; None where it has no such workers."""
    books: frozenset[str] = frozenset()
    """What its processes book in any amount, of "CPU", "GPU" and "memory". A stage that books nothing may still run
    tasks of one CPU."""
    module: str = ""
    """The module of its code, which its workers import."""
    import_ahead: str = ""
    """What its workers call to import what that module leaves for later, as "module:name"; empty: nothing."""


@dataclass(frozen=True)
class _ImportAhead:
    """Has a worker import what its first stage will need."""

    needs: StageNeeds

    def __call__(self) -> None:
        try:
            importlib.import_module(self.needs.module)
            if self.needs.import_ahead:
                module, _, name = self.needs.import_ahead.partition(":")
                getattr(importlib.import_module(module), name)()
        except Exception:  # the stage itself will come to it, and say so
            traceback.print_exc()


class StandingGroups:
    """The group that stands, if any: one at a time, and only within `kept`."""

    def __init__(self) -> None:
        self._group: StandingGroup | None = None
        self._kept = False

    @contextmanager
    def kept(self) -> Iterator[StandingGroups]:
        """Keep a group from one stage to the next for the length of the block."""
        self._kept = True
        try:
            yield self
        except BaseException:
            self._abandon()
            raise
        finally:
            self._kept = False
            self.close()

    def make_room(self, stages: Sequence[StageNeeds], cpus: float) -> None:
        """Before the first of `stages`, which are still to run: end the group unless it can wait for its next job.

        It waits for a stage that takes it over; also through stages before that one that book nothing of what it has
        booked, if these are left a whole one of the cluster's `cpus`.
        """
        if self._group is not None and not self._group.ended and not _can_wait(self._group.shape, stages, cpus):
            self.close()

    def start_ahead(self, stages: Sequence[StageNeeds], cpus: float) -> int | None:
        """Start the group of the first of `stages` that runs on one, if it can wait until then. Returns at once.

        What it returns is the stage's place in `stages`, or None where nothing was started: on a cluster that others
        use nothing is, since it would keep resources that somebody is waiting for.
        """
        if self._group is not None and self._group.ended:
            self.close()
        if self._group is not None or not self._kept or not _books_no_cpus():
            return None
        for place, stage in enumerate(stages):
            if stage.workers is not None:
                shape = shape_of(stage.workers)
                if not _can_wait(shape, stages, cpus):
                    return None
                self._group = StandingGroup(shape)
                self._group.post(_ImportAhead(stage))
                return place
        return None

    def run(self, entry: Callable[[], Any], group: WorkerGroup) -> Any:
        """Call `entry` on the workers of a group, the one that stands or a new one. Raises `GroupEnded`."""
        shape = shape_of(group)
        if self._group is not None and (self._group.ended or self._group.shape != shape):
            self.close()
        stood = self._group is not None
        if self._group is None:
            self._group = StandingGroup(shape)
        try:
            result = self._group.run(entry)
        except GroupEnded as ended:
            self.close()
            if stood and not ended.begun and not _found_no_room(ended):
                return self.run(entry, group)  # a worker had died while it waited
            raise
        except BaseException:  # an interrupt
            self._abandon()
            raise
        if not self._kept:
            self.close()
        return result

    def _abandon(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.abandon()

    def close(self) -> None:
        """End the group that stands."""
        group, self._group = self._group, None
        if group is not None:
            group.close()


def _can_wait(shape: GroupShape, stages: Sequence[StageNeeds], cpus: float) -> bool:
    """Whether a group can stand until one of `stages` takes it over, and the stages before that one still have room."""
    booked = {name: shape.num_workers * amount for name, amount in shape.resources if amount > 0}
    if _books_no_cpus():
        booked.pop("CPU", None)
    for stage in stages:
        if stage.workers is not None and shape_of(stage.workers) == shape:
            return True
        if stage.books & booked.keys() or ("CPU" in booked and cpus - booked["CPU"] < 1):
            return False
    return False


def _books_no_cpus() -> bool:
    """Whether this Ray books workers as `WAITING_WORKERS`."""
    import ray

    return bool(ray.cluster_resources().get(WAITING_WORKERS))


def _found_no_room(ended: GroupEnded) -> bool:
    from ray.train.v2.api.exceptions import ControllerError

    return isinstance(ended.cause, ControllerError)


STANDING_GROUPS = StandingGroups()
