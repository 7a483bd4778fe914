"""What a run says before and after: only what applies, and seconds only where they were measured."""

from pathlib import Path

import pytest

from cluster import run_forecast
from cluster.plan import PlannedStage, make_plan
from cluster.run_record import RunRecord, RunStage
from cluster.spec import JobSpec, load_spec

ROOT = Path(__file__).resolve().parents[3]
QUICKSTART = ROOT / "job_specs" / "quickstart.yaml"


def _plan(tmp_path: Path, **settings: object) -> tuple[JobSpec, list[PlannedStage]]:
    spec = load_spec(QUICKSTART, {"storage": str(tmp_path), **settings})
    return spec, make_plan(spec)


def test_every_stage_of_the_quickstart_has_its_measured_time(tmp_path: Path) -> None:
    # Fails when the quickstart's sizes change: measure them again, as `run_forecast.MEASURED_S` says.
    spec, stages = _plan(tmp_path)
    missing = {s.name: (s.kind, run_forecast.settings_fingerprint(s.config, spec.head.seed)) for s in stages}
    assert {key for key in missing.values() if key not in run_forecast.MEASURED_S} == set()


def test_the_lines_before_the_start_name_stages_time_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_forecast, "slowness", lambda: 2.0)
    spec, stages = _plan(tmp_path)
    what, how_long, where = run_forecast.what_will_run(spec, stages[1:], len(stages))
    assert what.startswith(f"quickstart: {len(stages) - 1} of {len(stages)} stages to run: dedupe, tokenizer")
    expected = 2 * (run_forecast.START_S + sum(run_forecast.MEASURED_S.values()))
    minutes = float(how_long.split()[1])
    assert abs(minutes * 60 - expected) < 90
    assert str(tmp_path) in where


def test_no_time_is_made_up_for_settings_that_were_not_measured(tmp_path: Path) -> None:
    spec, stages = _plan(tmp_path, **{"stages.pretrain.steps": 77})
    pretrain = next(stage for stage in stages if stage.kind == "pretrain")
    assert not any(line.startswith("about") for line in run_forecast.what_will_run(spec, [pretrain], len(stages)))


@pytest.mark.parametrize(("native", "gpus", "warnings"), [(False, 0, 1), (True, 0, 0), (None, 0, 0), (False, 1, 0)])
def test_bf16_that_the_cpu_emulates_is_told_before_it_starts(
    native: bool | None, gpus: int, warnings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_forecast, "has_native_bf16", lambda: native)
    _, stages = _plan(tmp_path, **{"stages.pretrain.precision": "bf16", "stages.pretrain.workers.gpus": gpus})
    shown = run_forecast.emulated_bf16(stages)
    assert len(shown) == warnings
    for line in shown:
        assert "stages.pretrain.precision is bf16" in line
        assert "Set precision: fp32" in line


def test_what_next_holds_only_what_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec_file = tmp_path / "spec.yaml"
    spec_file.write_text("")
    model = RunStage("sft", str(tmp_path / "store" / "sft" / "f"), "f", finished=True)
    record = RunRecord("mine", {"storage": str(tmp_path / "store")}, {"sft": model})
    report, talk, own = run_forecast.what_next(
        record, str(tmp_path / "runs/report.html"), str(spec_file), ("ppo", "sft")
    )
    assert report.endswith("runs/report.html")
    assert talk.endswith("raymill chat mine")
    assert "cp spec.yaml mine.yaml, edit it, raymill run mine.yaml" in own
    elsewhere = RunRecord("mine", {"storage": str(tmp_path / "out")}, {})
    lines = run_forecast.what_next(elsewhere, "s3://bucket/report.html", "as submitted", ("ppo", "sft"))
    assert lines == ["open the report:    s3://bucket/report.html"]
