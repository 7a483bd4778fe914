"""Runs one idempotent task for each shard on Ray Data, for all stages that work shard by shard.

A task gets a description of its shard and commits its own part. Only a few figures come back, so text never crosses the
object store. A shard that fails does not stop the others: all are tried, then those that failed are named. Where a
store fails for a while, the task is tried again. A worker that dies is replaced, though not for ever, since the shard
may be what kills it.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.contracts.config import Resources
from cluster.contracts.errors import CorruptArtifact, InputError, RaymillError, StageFailed, StorageError
from cluster.contracts.progress import Progress
from cluster.contracts.retry import Backoff, retrying
from dataprep.kernel_cache import keep_compiled_kernels

ShardTask = Callable[[dict[str, Any]], int]  # a shard's description (JSON) -> how many documents it has; picklable

_OWN_ERRORS = (InputError, StorageError, CorruptArtifact, StageFailed)
_NAMED_FAILURES = 5  # how many an error message names
_MAX_CRASHES = 6  # of workers on one shard until it counts as failed; Ray Data by itself would go on for ever
FAILURE_LOG = "failed_shards.log"


@dataclass(frozen=True)
class AlreadyDone:
    """The work that earlier attempts have committed, from which progress is counted on."""

    shards_done: int
    documents_done: int


def run_shard_tasks(
    task: ShardTask,
    shards: Sequence[dict[str, Any]],
    *,
    workers: Resources,
    max_workers: int | None,
    progress: Progress,
    already_done: AlreadyDone,
    log_directory: Path | None = None,
    backoff: Backoff | None = None,
    unit: str = "shards",
) -> None:
    """Run `task` on each shard. Raises `StageFailed`, which names the shards that failed by their "uri".

    `unit` is what progress and errors call the shards. Stack traces of errors that nobody foresaw are appended to
    `FAILURE_LOG` in `log_directory`.
    """
    import ray.data

    configure_ray_data()
    total = already_done.shards_done + len(shards)
    progress.update(already_done.shards_done, total, unit)
    if not shards:
        return
    rows = [{"index": index, "shard": json.dumps(shard)} for index, shard in enumerate(shards)]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        partial(_run_one, task=task, num_threads=workers.num_threads, backoff=backoff or Backoff()),
        concurrency=max_workers,
        max_retries=_MAX_CRASHES - 1,  # among Ray Data's deprecated keywords, but there is no other way in 2.60
        **remote_options(workers),
    )
    results.context.max_errored_blocks = len(rows)  # a shard whose worker died too often has no row
    failures = {index: f"{shard['uri']}: its worker died {_MAX_CRASHES} times" for index, shard in enumerate(shards)}
    traces: list[str] = []
    started, documents = time.monotonic(), 0
    with own_errors():
        for done, row in enumerate(results.iter_rows(), start=already_done.shards_done + 1):
            documents += row["documents"]
            del failures[row["index"]]
            if row["failure"]:
                failures[row["index"]] = row["failure"]
            if row["trace"]:
                traces.append(f"{row['failure']}\n{row['trace']}")
            figures: dict[str, float | str] = {}
            if documents:  # not every task is about documents
                rate = documents / (time.monotonic() - started)
                figures = {"docs_per_s": rate, "documents": already_done.documents_done + documents}
            progress.update(done, total, unit, **figures)
    if failures:
        shown = "\n".join(f"  - {failure}" for failure in sorted(failures.values())[:_NAMED_FAILURES])
        raise StageFailed(
            f"{len(failures)} of {len(shards)} {unit} failed; run again to retry these alone\n{shown}"
            + ("\n  - ..." if len(failures) > _NAMED_FAILURES else "")
            + _write_traces(traces, log_directory)
        )


def _run_one(row: dict[str, Any], *, task: ShardTask, num_threads: int, backoff: Backoff) -> dict[str, Any]:
    prepare_worker(num_threads)
    shard = json.loads(row["shard"])
    documents, failure, trace = 0, "", ""
    try:
        documents = retrying(partial(task, shard), backoff)
    except Exception as error:
        failure = f"{shard['uri']}: {type(error).__name__}: {error}"
        if not isinstance(error, RaymillError | OSError | MemoryError):
            trace = traceback.format_exc()
    return {"index": row["index"], "documents": documents, "failure": failure, "trace": trace}


def _write_traces(traces: Sequence[str], directory: Path | None) -> str:
    """Append stack traces to the log; returns a line for the error message that says where they are."""
    if not traces or directory is None:
        return ""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / FAILURE_LOG, "a") as log:
        log.write("\n".join(sorted(traces)) + "\n")
    return f"\nstack traces: {directory / FAILURE_LOG}"


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the error that a task raised on purpose as itself, without Ray's error and stack trace around it."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and type(cause) not in _OWN_ERRORS:
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise cause from None


def remote_options(resources: Resources) -> dict[str, Any]:
    """The options of Ray that reserve these resources for a task."""
    options: dict[str, Any] = {"num_cpus": resources.cpus}
    if resources.gpus:
        options["num_gpus"] = resources.gpus
    if resources.memory_gib is not None:
        options["memory"] = int(resources.memory_gib * 2**30)
    return options


def configure_ray_data() -> None:
    """Turn Ray Data's own progress bars and announcements off, since the runner shows progress."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def prepare_worker(num_threads: int) -> None:
    """Have the libraries in this process run `num_threads` threads, and keep compiled kernels between processes."""
    import pyarrow as pa

    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    keep_compiled_kernels()
    pa.set_cpu_count(num_threads)
