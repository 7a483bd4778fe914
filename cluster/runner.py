"""Runs a spec: every stage that isn't there yet, one after another, each finished by its manifest.

A stage that was killed is called again with the same directory and goes on from what it committed. Nothing that
is there is ever made again or overwritten.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from cluster.card_lineage import write_card
from cluster.contracts import storage
from cluster.contracts.artifacts import (
    Manifest,
    StageContext,
    StageResult,
    open_artifact,
    read_artifact,
    write_manifest,
)
from cluster.contracts.errors import RaymillError, StageFailed
from cluster.interrupts import Interrupts
from cluster.plan import PlannedStage, check_roles, make_plan, open_inputs
from cluster.run_forecast import emulated_bf16, what_next, what_will_run
from cluster.run_record import RunRecord, RunStage, artifact_lock, run_lock, run_uri, write_run
from cluster.spec import JobSpec
from cluster.stage_kinds import STAGE_KINDS, kinds_of_models
from cluster.start_ahead import started_ahead
from cluster.starting_models import check_models_and_settings, starting_models
from cluster.terminal import Terminal, duration
from training.launch.standing_group import STANDING_GROUPS

_RECORDED_PACKAGES = (
    "raymill", "ray", "torch", "transformers", "trl", "peft", "deepspeed", "accelerate",
    "pyarrow", "numpy", "numba", "tokenizers", "tiktoken", "resiliparse", "fastwarc", "fasttext",
)  # fmt: skip


def run_spec(
    spec: JobSpec, terminal: Terminal, *, address: str | None = None, interrupts: Interrupts | None = None
) -> RunRecord:
    """Bring every stage of `spec` into being and write the report.

    `address`: a running Ray cluster to join; None starts an embedded one, and only if a stage has to run.
    `interrupts`: where the process's signals are noted; asked to stop, the run goes no further than its stage.
    Raises `RaymillError` for all that can be told to the user in a sentence.
    """
    started = time.perf_counter()
    with run_lock(spec.head.storage, spec.head.name):
        stages = make_plan(spec)
        record = _record(spec, stages)
        write_run(record)
        todo = [stage for stage in stages if not stage.finished]
        if todo:
            for line in what_will_run(spec, todo, len(stages)):
                terminal.line(line)
            for warning in emulated_bf16(todo) if address is None else ():
                terminal.line(warning, style="yellow")
            _run_stages(spec, stages, terminal, address, interrupts or Interrupts())
        for position, stage in enumerate(stages, 1):
            if not todo:
                say_finished(terminal, stage, position, len(stages), "already there")
        record = _record(spec, make_plan(spec))
        write_run(record)
        from cluster.report.write import write_report

        report = write_report(record)
    terminal.line(f"\n{spec.head.name}: {len(stages)} stages, {duration(time.perf_counter() - started)}")
    for line in what_next(record, report, spec.source, kinds_of_models("policy")):
        terminal.line(line)
    return record


def _run_stages(
    spec: JobSpec, stages: list[PlannedStage], terminal: Terminal, address: str | None, interrupts: Interrupts
) -> None:
    from cluster import ray_session  # imports Ray, which a run that has all it needs can do without

    todo = [stage for stage in stages if not stage.finished]
    resources = spec.head.resources
    ray_session.check_memory(resources.memory_gib if address is None else 0)
    if address is None and resources.cpus is not None:
        local = {
            "CPU": float(int(resources.cpus)),
            "GPU": float("inf") if resources.gpus is None else float(resources.gpus),
            "memory": float("inf"),
        }
        check_roles(todo, local, "resources.cpus/gpus in the spec")
    with tempfile.TemporaryDirectory(prefix="raymill-models-") as scratch:
        check_models_and_settings(todo, Path(scratch), spec.source)
    terminal.line("starting Ray" if address is None else f"joining Ray at {address}", style="dim")
    with (
        ray_session.ray_session(resources, address, spec.head.environment.env_vars, terminal.line),
        STANDING_GROUPS.kept() as groups,
        started_ahead(groups, available := ray_session.cluster_resources(), own_ray=address is None) as ahead,
    ):
        check_roles(todo, available, "the cluster")
        ray_session.check_storage_is_shared(spec.head.storage)
        for position, stage in enumerate(stages, 1):
            interrupts.check()
            if stage.finished:
                say_finished(terminal, stage, position, len(stages), "already there")
                continue
            to_come = [later for later in stages[position - 1 :] if not later.finished]
            ahead.prepare(to_come)
            ray_session.check_disk(spec.head.storage, resources.disk_gib)
            with artifact_lock(stage.uri):
                if read_artifact(stage.uri) is None:  # another run may have made it while this one waited
                    _run_stage(stage, spec, terminal, position, len(stages))
            write_run(_record(spec, make_plan(spec)))


def _run_stage(stage: PlannedStage, spec: JobSpec, terminal: Terminal, position: int, count: int) -> None:
    """One stage, from its inputs to its manifest."""
    from cluster.progress import StageProgress

    started = time.perf_counter()
    scratch = Path(tempfile.mkdtemp(prefix=f"raymill-{stage.name}-"))
    with terminal.stage(stage.name, position, count) as display:
        progress = StageProgress(display)
        context = StageContext(
            name=stage.name,
            progress=progress,
            scratch=scratch,
            log_directory=log_directory(spec),
            seed=spec.head.seed,
            parts_directory=stage.parts_uri,
        )
        try:
            storage.make_directory(stage.uri)
            function = STAGE_KINDS[stage.kind].load_function()
            inputs = starting_models(stage, open_inputs(stage), storage_uri=spec.head.storage, scratch=scratch)
            result = function(stage.config, inputs, stage.uri, context)
        except RaymillError as error:
            traceback.print_exc()  # to the log file: descriptors 1 and 2 are not the user's terminal
            error.args = (f"stage {stage.name}: {error}",) if stage.name not in str(error) else error.args
            raise
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".strip()
            raise StageFailed(f"stage {stage.name} failed: {reason[:2000]}") from error
        finally:
            progress.close()
            shutil.rmtree(scratch, ignore_errors=True)
        wall_s = time.perf_counter() - started
        finish_stage(stage, spec, result, wall_s=wall_s, start_s=progress.start_s)
    say_finished(terminal, stage, position, count, duration(wall_s))


def finish_stage(
    stage: PlannedStage, spec: JobSpec, result: StageResult, *, wall_s: float, start_s: float | None = None
) -> None:
    """Write the card of a model, then the manifest, which makes the stage's artifact exist.

    `start_s`: seconds until the first step of its workers, of `wall_s`; None where it has none.
    """
    card = write_card(stage, make_plan(spec), spec, result)
    files = [*result.files, card] if card is not None else result.files
    timings = {"wall_s": round(wall_s, 3)}
    if start_s is not None:
        timings["start_s"] = round(start_s, 3)
    manifest = Manifest(
        kind=stage.kind,
        fingerprint=stage.fingerprint,
        config=stage.config.model_dump(mode="json"),
        inputs=stage.input_fingerprints,
        metrics=result.metrics,
        engine=result.engine,
        timings=timings,
        versions=_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        num_files=len(files),
        num_bytes=sum(file.size for file in files),
    )
    write_manifest(stage.uri, manifest, files)


def log_directory(spec: JobSpec) -> Path:
    """Where a run's logs go: beside its report, or under the home directory where storage is remote."""
    if storage.is_local(spec.head.storage):
        return storage.local_path(run_uri(spec.head.storage, spec.head.name, "logs"))
    return Path.home() / ".cache" / "raymill" / "logs" / spec.head.name


def _record(spec: JobSpec, stages: list[PlannedStage]) -> RunRecord:
    return RunRecord(
        spec.head.name,
        spec.as_dict(),
        {stage.name: RunStage(stage.kind, stage.uri, stage.fingerprint, stage.finished) for stage in stages},
    )


def say_finished(terminal: Terminal, stage: PlannedStage, position: int, count: int, how: str) -> None:
    """One line of a finished stage: how it came to be, and its figures."""
    metrics = open_artifact(stage.uri).manifest.metrics
    headline = STAGE_KINDS[stage.kind].figures.headline
    shown = [f"{name} {_figure(metrics[name])}" for name in headline if name in metrics]
    terminal.line(f"[{position}/{count}] {stage.name:<13} {how:<14} {' · '.join(shown)}")


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _versions() -> dict[str, str]:
    found = {}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
