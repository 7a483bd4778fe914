"""What a person meets first: help, refusals with an exit code, never a stack trace."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import app
from cluster.spec import load_spec

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ("run", "plan", "submit", "serve", "chat", "report", "inspect", "verify", "explain", "schema")


def _raymill(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_help_names_every_command() -> None:
    shown = _raymill("--help").stdout
    assert all(f"  {command} " in shown for command in COMMANDS)


def test_every_command_and_option_says_what_it_does() -> None:
    import typer

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    silent = [name for name, command in commands.items() if not command.help]
    silent += [f"{name} {p.name}" for name, command in commands.items() for p in command.params if not p.help]
    assert silent == []


def test_a_bad_spec_exits_2_with_every_problem_before_ray_starts(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("{name: t, storage: out, stages: {clean: {inputs: [no.warc.gz], languags: [en]}, x: {kind: y}}}")
    done = _raymill("run", str(spec))
    assert done.returncode == 2
    assert "3 problems" in done.stderr
    for part in ("stages.clean.inputs.0", "stages.clean.languags", "stages.x.kind", "did you mean 'languages'"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "absent.yaml"), 2, "can't be read"),
        (("run",), 2, "Missing argument"),
        (("nonsense",), 2, "No such command"),
        (("serve", "absent"), 2, "there is no run"),
        (("report", "absent", "--storage", "/nowhere"), 2, "there is no run"),
        (("report", "absent", "--output", "x.html"), 2, "is for two runs"),
        (("verify", "absent"), 2, "there is no run"),
        (("chat",), 2, "either a run or --url"),
        (("explain", "nonsense"), 2, "is no stage kind"),
        (("run", "job_specs/quickstart.yaml", "--set", "seed"), 2, "has no '='"),
        (("run", "job_specs/quickstart.yaml", "--set", "stages.dpo.betta=1"), 2, "did you mean 'beta'"),
    ],
)
def test_mistakes_on_the_command_line_are_told_plainly(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = _raymill(*arguments)
    assert done.returncode == code
    shown = re.sub(r"\s+", " ", done.stderr + done.stdout)
    assert message in shown
    assert "Traceback" not in shown


def test_too_little_memory_or_disk_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "pages.jsonl").write_text('{"text": "hello"}\n')
    spec = tmp_path / "spec.yaml"
    spec.write_text("{name: t, storage: out, stages: {clean: {inputs: [pages.jsonl]}}}")
    done = _raymill("run", str(spec), "--set", "resources.memory_gib=100000")
    assert done.returncode == 3
    assert "resources.memory_gib" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_stages_that_can_never_fit_are_refused_before_ray_starts(tmp_path: Path) -> None:
    (tmp_path / "pages.jsonl").write_text('{"text": "hello"}\n')
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "{name: t, storage: out, resources: {cpus: 2, gpus: 0, memory_gib: 0}, stages: {"
        "clean: {inputs: [pages.jsonl], workers: {cpus: 3}}, dedupe: {parts: clean, workers: {gpus: 1}}}}"
    )
    done = _raymill("run", str(spec))
    assert done.returncode == 3
    shown = re.sub(r"\s+", " ", done.stdout)
    assert "stages.clean: needs 3 CPU at once" in shown
    assert "stages.dedupe: needs 1 GPU at once" in shown


def test_plan_changes_nothing(tmp_path: Path) -> None:
    done = _raymill("plan", "job_specs/quickstart.yaml", "--storage", str(tmp_path / "out"))
    assert done.returncode == 0
    assert "pretrain" in done.stdout
    assert not (tmp_path / "out").exists()
    num_stages = len(load_spec(ROOT / "job_specs" / "quickstart.yaml").stages)
    assert len(re.findall(r"\b[0-9a-f]{16}\b", done.stdout)) == num_stages, "fingerprints are shown whole"
