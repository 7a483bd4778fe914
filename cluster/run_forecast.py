"""What a run tells before it starts and after it ends: what will run, about how long, where the result is, what next.

How long is said only where it was measured: for stages whose settings are those of `job_specs/quickstart.yaml`, whose
seconds on an idle machine of two cores are in `MEASURED_S`. Half a second of arithmetic and of plain Python here
tells how this machine, as busy as it is now, compares with that one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cluster.contracts import storage
from cluster.fingerprint import settings_fingerprint
from cluster.plan import PlannedStage
from cluster.run_record import DEFAULT_STORAGE, RunRecord, run_uri
from cluster.spec import JobSpec
from cluster.terminal import duration
from training.launch.native_bf16 import has_native_bf16

# Wall seconds of the quickstart's stages, by kind and settings, on an idle machine of two cores with AVX-512.
MEASURED_S: Mapping[tuple[str, str], float] = {
    ("clean", "749c5e654b02de47"): 12,
    ("dedupe", "751ec18d48025ae7"): 1,
    ("tokenizer", "a3bdbc3b6810d8e2"): 5,
    ("tokenize", "5ec3e0e169a9040d"): 2,
    ("mixture", "a3379b65480e4448"): 0,
    ("pretrain", "86c65eca8429bf64"): 132,
    ("conversations", "f13c1c08d793719d"): 1,
    ("preferences", "04971c9ec2f26023"): 2,
    ("sft", "9817cfff291f852b"): 25,
    ("reward_model", "3af80b9ae20f89a8"): 79,
    ("dpo", "d82d2cb016effd8f"): 38,
    ("ppo", "02c3427e40c6c072"): 29,
    ("evaluate", "c7040a0d78a10611"): 25,
}
START_S = 6.0  # Ray and the report
# What the probe found on that machine, per second on one core: products of 64 x 64 matrices, passes of a Python loop.
MEASURED_PRODUCTS_PER_S = 160_000.0
MEASURED_LOOPS_PER_S = 7_300.0
_PROBE_S = 0.25  # each of the two, and as much for what others leave
_RAY_NICENESS = 15  # of Ray's workers, which give way to everything else
_LOOP = "sum(range(10_000))"


def what_will_run(spec: JobSpec, todo: Sequence[PlannedStage], num_stages: int) -> list[str]:
    """The lines shown before anything starts; `todo` are the stages that are not there yet."""
    names = ", ".join(stage.name for stage in todo)
    lines = [f"{spec.head.name}: {len(todo)} of {num_stages} stages to run: {names}"]
    known = [seconds for stage in todo if (seconds := _measured(spec, stage)) is not None]
    if len(known) == len(todo):
        total = (START_S + sum(known)) * slowness()
        lines.append(f"about {duration(max(60.0, 30 * round(total / 30)))} on this machine, as busy as it is now")
    lines.append(
        f"artifacts: {spec.head.storage}   report: {run_uri(spec.head.storage, spec.head.name, 'report.html')}"
    )
    return lines


def emulated_bf16(todo: Sequence[PlannedStage]) -> list[str]:
    """A warning for each stage that asks for bf16 on CPUs that have none of their own; for stages that run here."""
    if has_native_bf16() is not False:
        return []
    return [
        f"warning: stages.{stage.name}.precision is bf16, which this machine's CPU only emulates (it has neither "
        "avx512_bf16 nor amx_bf16): steps take many times as long as in fp32. Set precision: fp32, or give the "
        "workers GPUs"
        for stage in todo
        if getattr(stage.config, "precision", None) == "bf16" and stage.config.workers.gpus == 0  # type: ignore[attr-defined]
    ]


def _measured(spec: JobSpec, stage: PlannedStage) -> float | None:
    return MEASURED_S.get((stage.kind, settings_fingerprint(stage.config, spec.head.seed)))


def slowness() -> float:
    """How many times as long this machine takes now as the one that `MEASURED_S` is from.

    Half of a stage's time is taken for arithmetic and half for Python. What other programs leave is measured by
    processes that give way to them as Ray's workers do, one a core.
    """
    matrix = np.ones((64, 64), np.float32)
    products = _rate(lambda: matrix @ matrix)
    loops = _rate(lambda: sum(range(10_000)))
    alone = (MEASURED_PRODUCTS_PER_S / products + MEASURED_LOOPS_PER_S / loops) / 2
    return alone * max(1.0, loops / _rate_left_by_others())


def _rate(work: Callable[[], object]) -> float:
    work()
    begun, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < _PROBE_S:
        work()
        count += 1
    return max(count, 1) / elapsed


def _rate_left_by_others() -> float:
    """Passes of the Python loop per second and core in two processes of low priority."""
    code = (
        f"import os, time\nos.nice({_RAY_NICENESS})\nbegun = time.perf_counter()\ncount = 0\n"
        f"while time.perf_counter() - begun < {_PROBE_S}:\n    {_LOOP}\n    count += 1\n"
        "print(count / (time.perf_counter() - begun))"
    )
    probes = [subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    return sum(float(probe.communicate()[0]) for probe in probes) / len(probes)


def what_next(record: RunRecord, report_uri: str, source: str, model_kinds: Sequence[str]) -> list[str]:
    """What to do with a finished run: look at it, talk to it, make one's own. Only what applies to it."""
    is_default = os.path.abspath(record.storage) == os.path.abspath(DEFAULT_STORAGE)
    where = "" if is_default else f" --storage {_short(record.storage)}"
    lines = [f"open the report:    {_short(report_uri)}"]
    if record.newest_of(*model_kinds) is not None:
        lines.append(f"talk to the model:  raymill chat {record.name}{where}")
    if Path(source).is_file():
        mine = str(Path(_short(source)).with_name("mine.yaml"))  # beside it, since its paths are relative to it
        lines.append(f"make it your own:   cp {_short(source)} {mine}, edit it, raymill run {mine}")
    return lines


def _short(uri: str) -> str:
    """A local path from here where that is shorter."""
    if not storage.is_local(uri):
        return uri
    path = str(storage.local_path(uri))
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path
