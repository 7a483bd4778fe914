"""For which stages a group of workers stands and waits: those that leave every other stage what it books."""

import pytest

from cluster.contracts.config import WorkerGroup
from cluster.contracts.stage_kind import StageKind, load
from cluster.stage_kinds import STAGE_KINDS
from training.launch import standing_group
from training.launch.standing_group import StageNeeds, StandingGroups, _can_wait, shape_of

HALF = WorkerGroup(num_workers=2, cpus=0.5)
TAKER = StageNeeds(workers=HALF, books=frozenset({"CPU"}))
WITHOUT_ROLES = StageNeeds(workers=None)
RUNS_TASKS = StageNeeds(workers=None, books=frozenset({"CPU"}))
ON_GPUS = StageNeeds(workers=None, books=frozenset({"CPU", "GPU"}))
RESERVES_MEMORY = StageNeeds(workers=None, books=frozenset({"CPU", "memory"}))


@pytest.fixture(params=[False, True], ids=["cluster", "own-ray"])
def books_no_cpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the Ray is this run's own, where workers book no CPUs."""
    monkeypatch.setattr(standing_group, "_books_no_cpus", lambda: request.param)
    return bool(request.param)


def test_a_group_waits_through_tasks_only_where_it_takes_no_cpu_from_them(books_no_cpus: bool) -> None:
    assert _can_wait(shape_of(HALF), [RUNS_TASKS, TAKER], cpus=4) == books_no_cpus


def test_a_group_leaves_a_stage_without_roles_a_whole_cpu(books_no_cpus: bool) -> None:
    assert _can_wait(shape_of(HALF), [WITHOUT_ROLES, TAKER], cpus=2)
    assert _can_wait(shape_of(HALF), [WITHOUT_ROLES, TAKER], cpus=1.5) == books_no_cpus


@pytest.mark.usefixtures("books_no_cpus")
@pytest.mark.parametrize(
    ("group", "stage"),
    [
        (HALF.model_copy(update={"gpus": 1.0}), ON_GPUS),
        (HALF.model_copy(update={"memory_gib": 1.0}), RESERVES_MEMORY),
    ],
)
def test_a_group_keeps_no_gpu_and_no_memory_from_a_stage(group: WorkerGroup, stage: StageNeeds) -> None:
    taker = StageNeeds(workers=group, books=stage.books)
    assert not _can_wait(shape_of(group), [stage, taker], cpus=4)
    assert _can_wait(shape_of(group), [WITHOUT_ROLES, taker], cpus=4)


@pytest.mark.usefixtures("books_no_cpus")
def test_a_group_waits_for_no_stage_of_another_shape_nor_for_one_that_takes_over_none() -> None:
    for stage in (StageNeeds(workers=WorkerGroup(num_workers=1)), RUNS_TASKS, WITHOUT_ROLES):
        assert not _can_wait(shape_of(HALF), [stage], cpus=4)


def test_on_a_cluster_that_others_use_no_workers_are_started_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_group, "_books_no_cpus", lambda: False)
    with StandingGroups().kept() as groups:
        assert groups.start_ahead([TAKER], cpus=4) is None


def test_every_kind_whose_workers_are_a_group_says_that_it_runs_on_them() -> None:
    have_groups = {k.name for k in STAGE_KINDS.values() if _annotation(k, "workers") is WorkerGroup}
    assert have_groups == {kind.name for kind in STAGE_KINDS.values() if kind.runs_on_workers}
    for kind in STAGE_KINDS.values():
        for target in (kind.import_ahead, kind.start_ahead, kind.close_ahead):
            assert not target or callable(load(target))


def _annotation(kind: StageKind, field: str) -> object:
    return kind.config.model_fields[field].annotation if field in kind.config.model_fields else None
