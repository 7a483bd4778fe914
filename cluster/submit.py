"""Submission: the same spec, run by Ray Jobs on a cluster that is already up.

What travels is a staged directory of exactly what the job needs: Raymill's own packages, the resolved spec, and
the raw inputs that lie on this machine. The user's working directory does not, so a folder of theirs that is
called `tests` or `cluster` can't get in front of ours.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster.contracts import storage
from cluster.contracts.config import set_at
from cluster.contracts.errors import InputError, Problem, ResourceError, SpecError
from cluster.contracts.storage import LIST_SUFFIX
from cluster.spec import JobSpec, is_outside_reference, stage_inputs

PACKAGES = ("dataprep", "training", "serving", "cluster")
AGENT_TIMEOUT_S = 120
MAX_UPLOAD_MIB = 400  # Ray refuses working directories over 500 MiB
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.nbi", "*.nbc")


def submit_job(spec: JobSpec, *, address: str, follow: bool, write: Callable[[str], None]) -> int:
    """Submit `spec`; with `follow`, relay its log through `write` until it ends.

    Returns the job's exit code: 0 if it succeeded (or was only submitted), else the driver's own.
    Raises `ResourceError` where no cluster answers, `InputError` where inputs are too large to send along.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise ResourceError(
            f"no Ray cluster answers at {address}: {error}. Give the dashboard's address, e.g. http://HEAD:8265"
        ) from error
    with staged_job(spec) as directory:
        job_id = _submit(
            client,
            entrypoint="python -m cluster run spec.yaml --address auto",
            runtime_env=_runtime_env(spec, directory),
            metadata={"raymill_run": spec.head.name},
        )
    write(f"submitted {job_id} to {address}\n")
    if not follow:
        return 0
    asyncio.run(_follow(client, job_id, write))
    info = client.get_job_info(job_id)
    write(f"job {job_id}: {info.status.value.lower()}\n")
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.message and info.driver_exit_code is None:
        write(f"{info.message}\n")
    return int(info.driver_exit_code or 1)


def _submit(client: Any, **job: Any) -> str:
    """Submit, waiting for a cluster that has only just come up: its agents answer later than its dashboard."""
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"the cluster's dashboard answers, but no job agent on its head node did for {AGENT_TIMEOUT_S} s;"
                    " look into dashboard_agent.log there. Where two Rays share a machine, the second needs a"
                    " --dashboard-agent-listen-port of its own"
                ) from error
            time.sleep(2)


@contextmanager
def staged_job(spec: JobSpec) -> Iterator[Path]:
    """A temporary directory with the packages, `spec.yaml` and the local raw inputs under `inputs/`."""
    with tempfile.TemporaryDirectory(prefix="raymill-submit-") as name:
        directory = Path(name)
        root = Path(__file__).resolve().parent.parent
        for package in PACKAGES:
            shutil.copytree(root / package, directory / package, ignore=_IGNORED)
        values = spec.as_dict()
        values["fingerprint_inputs"] = "content"  # unpacked files have new mtimes on every submission
        for stage in spec.stages:
            _stage_inputs(spec, stage, values["stages"][stage], directory)
        (directory / "spec.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        size = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
        if size > MAX_UPLOAD_MIB * 2**20:
            raise InputError(
                f"the spec's local inputs make a submission of {size / 2**20:.0f} MiB; at most {MAX_UPLOAD_MIB} are "
                "sent along. Put them on storage that the cluster reads (s3://...) and name them there."
            )
        yield directory


def _stage_inputs(spec: JobSpec, stage: str, values: dict[str, Any], directory: Path) -> None:
    """Copy a stage's local raw inputs into the staged directory and point the staged spec at the copies."""
    config = spec.stages[stage]
    problems = [
        Problem(f"stages.{stage}.{role}", target, "lies on this machine; a cluster can't read it", "an s3:// URI")
        for role, target in stage_inputs(config).items()
        if is_outside_reference(target) and storage.is_local(target)
    ]
    if problems:
        raise SpecError(problems, spec.source)
    for field, patterns in config.raw_inputs().items():
        set_at(values, field, _stage_files(patterns, directory) or None)
    for path, files in config.reference_files().items():
        set_at(values, path, _stage_files(files, directory))


def _stage_files(patterns: Iterable[str], directory: Path) -> list[str]:
    """Copy the local files of `patterns` to `inputs/` below `directory`; returns where all files are for the job."""
    staged = []
    for file in (file for pattern in patterns for file in storage.expand(pattern)):
        if storage.is_local(file.uri):
            relative = Path("inputs", *storage.local_path(file.uri).parts[1:])
            (directory / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(storage.local_path(file.uri), directory / relative)
            staged.append(_literal(str(relative)))
        else:
            staged.append(file.uri)
    return staged


def _literal(path: str) -> str:
    """A pattern that matches `path` alone: `*`, `?` and `[` are quoted, and it is not taken for a list of inputs."""
    escaped = re.sub(r"([*?[])", r"[\1]", path)
    return f"{escaped[:-1]}[{escaped[-1]}]" if escaped.endswith(LIST_SUFFIX) else escaped


def _runtime_env(spec: JobSpec, directory: Path) -> dict[str, Any]:
    from cluster.ray_session import worker_environment

    environment: dict[str, Any] = {
        "working_dir": str(directory),
        "env_vars": {**worker_environment(), **spec.head.environment.env_vars},
    }
    if spec.head.environment.pip:
        environment["pip"] = spec.head.environment.pip
    return environment


async def _follow(client: Any, job_id: str, write: Callable[[str], None]) -> None:
    async for chunk in client.tail_job_logs(job_id):
        write(chunk)
