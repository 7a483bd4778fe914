"""Workers that one stage takes over from another: the same processes, and nothing of the earlier job in them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray import serve

from cluster.contracts.artifacts import StageContext
from cluster.contracts.config import WorkerGroup
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.progress import SilentProgress
from serving.deploy import App, deploy, start_serve
from serving.rollout_client import ServeRolloutClient
from training.launch import standing_group
from training.launch.standing_group import STANDING_GROUPS, StageNeeds, StandingGroup, shape_of
from training.launch.workers import Worker, gather_over_ranks, run_workers

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("local_ray")]

HALF = WorkerGroup(num_workers=2, cpus=0.5, max_failures=0)
LEFT_BEHIND = "RAYMILL_LEFT_BEHIND"


@dataclass(frozen=True)
class Look:
    """What a job finds in its processes."""

    pids: list[int]
    threads: list[int]
    draws: list[float]
    left_behind: list[str | None]


def look(worker: Worker, job: str) -> Look:
    if job == "fails" and worker.rank == 1:
        raise ValueError("rank 1 had enough")
    if job == "refuses":
        raise InputError("no such column")
    found = (os.getpid(), torch.get_num_threads(), float(torch.rand(())), os.environ.get(LEFT_BEHIND))
    os.environ[LEFT_BEHIND] = job
    torch.set_num_threads(7)
    return Look(*(list(column) for column in zip(*gather_over_ranks(worker, [found]), strict=True)))


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext("stage", SilentProgress(), tmp_path / "scratch", tmp_path / "logs", seed=3)


@pytest.fixture
def kept() -> Iterator[None]:
    with STANDING_GROUPS.kept():
        yield


def _free_cpus() -> float:
    """The CPUs that nobody holds, once Ray's view of them has settled."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        time.sleep(0.1)
    return float(ray.available_resources().get("CPU", 0))


def _trains_on(group: WorkerGroup) -> StageNeeds:
    return StageNeeds(workers=group, books=frozenset({"CPU"}))


NEEDS_NO_WORKERS = StageNeeds(workers=None)


@pytest.mark.usefixtures("kept")
def test_a_stage_takes_over_the_workers_of_the_one_before_and_finds_nothing_of_it(context: StageContext) -> None:
    first = run_workers(look, "first", HALF, context)
    second = run_workers(look, "second", HALF, context)
    assert second.pids == first.pids
    assert second.draws == first.draws  # seeded anew
    assert first.threads == second.threads == [1, 1]
    assert first.left_behind == second.left_behind == [None, None]


@pytest.mark.usefixtures("kept")
def test_workers_of_another_shape_are_others(context: StageContext) -> None:
    first = run_workers(look, "first", HALF, context)
    threads = HALF.model_copy(update={"threads": 2})
    assert shape_of(threads) != shape_of(HALF)
    second = run_workers(look, "second", threads, context)
    assert not set(second.pids) & set(first.pids)
    assert second.threads == [2, 2]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("job", "error"), [("fails", StageFailed), ("refuses", InputError)])
def test_a_job_that_fails_ends_its_workers_and_the_next_has_new_ones(
    job: str, error: type[Exception], context: StageContext
) -> None:
    first = run_workers(look, "first", HALF, context)
    with pytest.raises(error, match="rank 1 had enough" if job == "fails" else "no such column"):
        run_workers(look, job, HALF, context)
    assert not set(run_workers(look, "second", HALF, context).pids) & set(first.pids)


@pytest.mark.usefixtures("kept")
def test_workers_that_died_while_they_waited_are_replaced_and_are_no_failure_of_the_next_stage(
    context: StageContext,
) -> None:
    assert HALF.max_failures == 0
    first = run_workers(look, "first", HALF, context)
    os.kill(first.pids[1], signal.SIGKILL)
    second = run_workers(look, "second", HALF, context)
    assert not set(second.pids) & set(first.pids)


@dataclass(frozen=True)
class SleepAndTell:
    """Writes down the process that it keeps."""

    directory: Path

    def __call__(self) -> None:
        (self.directory / str(os.getpid())).touch()
        time.sleep(10_000)


def test_workers_that_do_not_leave_when_they_are_asked_to_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_group, "_CLOSE_TIMEOUT_S", 2.0)
    group = StandingGroup(shape_of(HALF))
    group.post(SleepAndTell(tmp_path))
    while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < HALF.num_workers:
        time.sleep(0.1)
    group.close()
    monkeypatch.undo()
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        time.sleep(0.1)
    assert _free_cpus() == ray.cluster_resources()["CPU"]


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Scores:
    """A server that tells which one it is."""

    def __init__(self, number: int) -> None:
        self._number = number

    def score(self, token_ids: list[list[int]]) -> list[float]:
        return [float(self._number)] * len(token_ids)


def ask(worker: Worker, client: ServeRolloutClient) -> tuple[int, list[float]]:
    return os.getpid(), client.score([[1, 2]])


@pytest.mark.usefixtures("kept")
def test_the_same_workers_reach_the_servers_of_two_stages(context: StageContext) -> None:
    client = ServeRolloutClient(
        policy_app="", reward_app="scores", policy_replicas=1, reward_replicas=1, store=None, bucket_bytes=1,
        update_timeout_s=60.0, request_timeout_s=300.0,
    )  # fmt: skip
    answers = []
    for number in range(2):
        start_serve()
        try:
            deploy([App("scores", Scores.bind(number))], timeout_s=300)
            answers.append(run_workers(ask, client, HALF, context))
        finally:
            serve.shutdown()
    assert answers == [(answers[0][0], [0.0]), (answers[0][0], [1.0])]


@pytest.mark.usefixtures("kept")
def test_workers_wait_for_a_stage_that_takes_them_and_leave_for_any_other(context: StageContext) -> None:
    first = run_workers(look, "first", HALF, context)
    STANDING_GROUPS.make_room([NEEDS_NO_WORKERS, _trains_on(HALF)], cpus=2)
    assert run_workers(look, "second", HALF, context).pids == first.pids
    STANDING_GROUPS.make_room([_trains_on(WorkerGroup(num_workers=1))], cpus=4)
    assert _free_cpus() == ray.cluster_resources()["CPU"]
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in first.pids)


STARTED_AHEAD = """
import os, sys, tempfile
from pathlib import Path
import psutil, ray
from cluster.contracts.artifacts import StageContext
from cluster.contracts.config import WorkerGroup
from cluster.contracts.progress import SilentProgress
from cluster.ray_session import ray_session
from cluster.spec import ClusterResources
from training.launch.standing_group import STANDING_GROUPS, StageNeeds
from training.launch.workers import run_workers

GROUP = WorkerGroup(num_workers=2, cpus=0.5, max_failures=0)
SHELL = "training.post_training.trl_stage"

def has_imported(worker, job):
    return SHELL in sys.modules, "transformers.models.llama.modeling_llama" in sys.modules

with ray_session(ClusterResources(cpus=1, object_store_gib=0.1), None, {}), STANDING_GROUPS.kept() as groups:
    groups_of_ray = {os.getpgid(process.pid) for process in psutil.Process().children()}
    print("Ray hears of our group's signals:", os.getpgid(0) in groups_of_ray)
    clean = StageNeeds(workers=None, books=frozenset({"CPU"}))
    needs = StageNeeds(GROUP, frozenset({"CPU"}), SHELL, "training.engine.import_ahead:import_for_training")
    print("started for stage", groups.start_ahead([clean, needs], cpus=1))
    group = groups._group
    groups.make_room([clean, needs], cpus=1)
    print("a task of the only CPU:", ray.get(ray.remote(num_cpus=1)(lambda: 3).remote()))
    scratch = Path(tempfile.mkdtemp())
    print("imported:", run_workers(has_imported, None, GROUP, StageContext("s", SilentProgress(), scratch, scratch, 1)))
    print("the same group:", groups._group is group)
"""


def test_workers_started_ahead_import_what_their_stage_needs_and_take_no_cpu_from_the_stages_before_it() -> None:
    code = [sys.executable, "-c", STARTED_AHEAD]
    done = subprocess.run(code, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Ray hears of our group's signals: False",
        "started for stage 1",
        "a task of the only CPU: 3",
        "imported: (True, True)",
        "the same group: True",
    ]


def test_nothing_stands_once_the_run_is_over(context: StageContext) -> None:
    with STANDING_GROUPS.kept():
        run_workers(look, "first", HALF, context)
    assert _free_cpus() == ray.cluster_resources()["CPU"]
    run_workers(look, "alone", HALF, context)
    assert _free_cpus() == ray.cluster_resources()["CPU"]
