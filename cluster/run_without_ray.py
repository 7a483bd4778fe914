"""One training stage without Ray, for debugging or where there is no Ray: in this process, or as a rank of `torchrun`.

The artifact is the same as that of `raymill run`, which takes the stage as finished.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, read_artifact
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from cluster.plan import PlannedStage, make_plan, open_inputs
from cluster.run_record import artifact_lock
from cluster.runner import finish_stage, log_directory, say_finished
from cluster.spec import JobSpec
from cluster.stage_kinds import STAGE_KINDS
from cluster.starting_models import starting_models
from cluster.terminal import BarDisplay, LineDisplay, Terminal, duration


class ShownProgress:
    """A stage's progress, shown by the process that trains."""

    def __init__(self, display: BarDisplay | LineDisplay) -> None:
        self._display = display

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        self._display.update(done, total, unit, figures)

    def note(self, message: str) -> None:
        self._display.note(message)


def train_stage(spec: JobSpec, name: str, terminal: Terminal) -> None:
    """Run the stage `name` of `spec` here, from inputs that are there already, to its manifest.

    Under `torchrun` every rank calls this; rank 0 shows progress and writes the manifest. Raises `InputError` for a
    stage that is unknown, needs Ray, or has inputs that are not there.
    """
    is_main = int(os.environ.get("RANK", "0")) == 0
    stages = {stage.name: stage for stage in make_plan(spec)}
    if name not in stages:
        raise InputError(f"the spec has no stage {name!r}; it has {', '.join(stages)}")
    stage = stages[name]
    if stage.finished:
        if is_main:
            say_finished(terminal, stage, 1, 1, "already there")
        return
    inputs = open_inputs(stage)
    with artifact_lock(stage.uri) if is_main else nullcontext():
        if is_main and read_artifact(stage.uri) is not None:
            return
        _train(stage, spec, terminal, inputs, is_main)


def _train(stage: PlannedStage, spec: JobSpec, terminal: Terminal, inputs: dict[str, Artifact], is_main: bool) -> None:
    kind = STAGE_KINDS[stage.kind]
    if not kind.runs_without_ray:
        others = ", ".join(other.name for other in STAGE_KINDS.values() if other.runs_without_ray)
        raise InputError(
            f"stage {stage.name!r} is of kind {stage.kind!r}, which needs Ray: use `raymill run`. "
            f"These kinds run without Ray: {others}"
        )
    function = kind.load_function()
    from training.launch.workers import run_in_process

    started = time.perf_counter()
    scratch = Path(tempfile.mkdtemp(prefix=f"raymill-{stage.name}-"))
    try:
        with terminal.stage(stage.name, 1, 1) if is_main else nullcontext() as display:
            context = StageContext(
                name=stage.name,
                progress=ShownProgress(display) if display is not None else SilentProgress(),
                scratch=scratch,
                log_directory=log_directory(spec),
                seed=spec.head.seed,
                parts_directory=stage.parts_uri,
            )
            storage.make_directory(stage.uri)
            inputs = starting_models(stage, inputs, storage_uri=spec.head.storage, scratch=scratch, is_main=is_main)
            result = function(stage.config, inputs, stage.uri, context, launch=run_in_process)  # type: ignore[call-arg]
            if is_main:
                finish_stage(stage, spec, result, wall_s=time.perf_counter() - started)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if is_main:
        say_finished(terminal, stage, 1, 1, duration(time.perf_counter() - started))
