"""Which of several workers' failures is told, and a function in a plain process."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.contracts.artifacts import StageContext
from cluster.contracts.config import WorkerGroup
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.progress import SilentProgress
from training.launch.workers import Worker, WorkerFailure, _essential_failure, run_in_process

BROKEN = WorkerFailure(0, "RuntimeError: Connection closed by peer", "trace 0", None)


def test_a_broken_connection_is_not_told_where_the_cause_is_known() -> None:
    cause = WorkerFailure(1, "ValueError: row 17 of shard 3", "trace 1", None)
    told = _essential_failure({0: BROKEN, 1: cause, 2: OSError("actor died")})
    assert told.cause == "rank 1: ValueError: row 17 of shard 3"
    assert "trace 0" in told.trace
    assert "trace 1" in told.trace


def test_a_dead_process_is_told_before_the_connections_it_broke() -> None:
    assert _essential_failure({0: BROKEN, 1: OSError("actor died")}).cause.startswith("rank 1: its process died")


def test_a_deliberate_error_comes_first_and_as_it_is() -> None:
    deliberate = InputError("no such column")
    failures = {
        0: WorkerFailure(0, "ValueError: x", "", None),
        1: WorkerFailure(1, "InputError: no such column", "", deliberate),
    }
    assert _essential_failure(failures).deliberate is deliberate


def test_worker_failures_survive_pickling() -> None:
    failure = pickle.loads(pickle.dumps(WorkerFailure(3, "cause", "trace", InputError("why"))))
    assert (failure.rank, failure.cause, failure.trace, str(failure.deliberate)) == (3, "cause", "trace", "why")


@dataclass(frozen=True)
class ReportJob:
    given: int


@dataclass(frozen=True)
class Report:
    agree: bool
    main: bool
    scratch: Path
    given: int


def report(worker: Worker, job: ReportJob) -> Report:
    (worker.scratch / "file").write_text("x")
    worker.barrier()
    return Report(worker.agree(True), worker.is_main, worker.scratch, job.given)


@pytest.mark.usefixtures("one_rank")
def test_plain_process_is_rank_zero_and_its_scratch_goes(tmp_path: Path) -> None:
    context = StageContext("stage", SilentProgress(), tmp_path, tmp_path / "logs")
    result = run_in_process(report, ReportJob(given=1), WorkerGroup(), context)
    assert result == Report(agree=True, main=True, scratch=result.scratch, given=1)
    assert not result.scratch.exists()


def test_a_plain_process_is_not_two_workers(tmp_path: Path) -> None:
    context = StageContext("stage", SilentProgress(), tmp_path, tmp_path / "logs")
    with pytest.raises(StageFailed, match="num_workers: 2, and this is a group of 1"):
        run_in_process(report, ReportJob(given=1), WorkerGroup(num_workers=2), context)
