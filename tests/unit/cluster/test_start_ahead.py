"""What is started before its stage: PPO's servers beside a stage that trains, if both fit and no GPU is shared."""

from pathlib import Path

import pytest

from cluster.plan import PlannedStage, make_plan
from cluster.spec import load_spec
from cluster.start_ahead import can_start_beside, needs_of

SPEC = Path(__file__).resolve().parents[3] / "job_specs" / "quickstart.yaml"


def _planned(storage: Path, **settings: object) -> dict[str, PlannedStage]:
    overrides = {f"stages.{path.replace('__', '.')}": value for path, value in settings.items()}
    return {stage.name: stage for stage in make_plan(load_spec(SPEC, {"storage": str(storage), **overrides}))}


def test_ppos_servers_start_beside_a_stage_that_trains_if_both_fit(tmp_path: Path) -> None:
    stages = _planned(tmp_path)
    assert can_start_beside(stages["dpo"], stages["ppo"], cpus=2)
    assert not can_start_beside(stages["dpo"], stages["ppo"], cpus=1.5)


@pytest.mark.parametrize("before", ["preferences", "clean", "ppo"])
def test_nothing_starts_beside_tasks_or_beside_servers_of_the_same_name(before: str, tmp_path: Path) -> None:
    stages = _planned(tmp_path)
    assert not can_start_beside(stages[before], stages["ppo"], cpus=64)


@pytest.mark.parametrize("setting", ["gpus", "memory_gib"])
def test_servers_with_a_gpu_or_memory_of_their_own_wait_for_their_stage(setting: str, tmp_path: Path) -> None:
    stages = _planned(tmp_path, **{f"ppo__policy_server__{setting}": 1})
    assert not can_start_beside(stages["dpo"], stages["ppo"], cpus=64)


def test_a_stage_runs_on_workers_where_its_kind_says_so(tmp_path: Path) -> None:
    needs = {name: needs_of(stage) for name, stage in _planned(tmp_path).items()}
    assert {name for name, need in needs.items() if need.workers is not None} == {
        "pretrain", "sft", "reward_model", "dpo", "ppo", "evaluate",
    }  # fmt: skip
    assert needs["clean"].books == {"CPU"}
    assert not needs["mixture"].books
