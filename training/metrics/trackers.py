"""Where a run's metrics go beside `metrics.jsonl`: TensorBoard, W&B, MLflow, and Ray's Prometheus endpoint.

Each tracker is a small adapter with `log(step, figures)`, `rewind(step)` and `close()`, made on rank 0 only.
`metrics.jsonl` is the record, and trackers are views of it: where one of them fails in the middle of a run, that is
noted once and training goes on. Trackers that would have training wait for a server send from a thread behind it.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from cluster.contracts import storage
from cluster.contracts.errors import InputError

TENSORBOARD_DIRECTORY = "tensorboard"
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardX"}
_PROJECT = "raymill"
Row = TypeVar("Row")
_MOST_WAITING = 1000  # steps that a server may be behind before training waits for it
_MOST_IN_BATCH = 1000  # metrics in a request, which is MLflow's limit


class Tracker(Protocol):
    """One destination."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def rewind(self, step: int) -> None:
        """The run goes back: forget what was logged from `step` on. Where nothing can be taken back, a no-op."""
        return

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise `InputError` for a tracker whose package is not installed; called before a worker starts."""
    missing = [name for name in names if importlib.util.find_spec(_PACKAGES[name]) is None]
    if missing:
        raise InputError(
            f"trackers: {', '.join(missing)} can't be imported here; pip install 'raymill[tracking]', or leave it out"
        )


class Trackers:
    """All destinations of one run; an error of one ends that one alone."""

    def __init__(self, trackers: Mapping[str, Tracker], note: Callable[[str], None]) -> None:
        self._trackers, self._note = dict(trackers), note

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Send the numbers among `figures`."""
        numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
        self._each(lambda tracker: tracker.log(step, numbers))

    def rewind(self, step: int) -> None:
        """The run goes back to `step`: what was logged from there on is shown no more, where that can be done."""
        self._each(lambda tracker: tracker.rewind(step))

    def close(self) -> None:
        """Send what is left. Nothing can be logged afterwards; closing again does nothing."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                self._note(
                    f"{name} takes no more metrics ({type(error).__name__}: {error}); metrics.jsonl has them all"
                )


def open_trackers(
    names: Sequence[str],
    *,
    stage: str,
    run_id: str,
    output: str,
    scratch: Path,
    first_step: int,
    config: Mapping[str, Any],
    note: Callable[[str], None],
) -> Trackers:
    """The trackers called `names`, and Prometheus where this process is a Ray worker.

    `run_id` is the same for all attempts of a run, so that a resumed one goes on in the same place.
    """
    opened: dict[str, Tracker] = {}
    openers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _TensorBoard(output, scratch, first_step),
        "wandb": lambda: _WandB(stage, run_id, config, output),
        "mlflow": lambda: _MLflow(stage, run_id, config),
    }
    for name in names:
        try:
            opened[name] = openers[name]()
        except Exception as error:
            note(f"{name} can't be used ({type(error).__name__}: {error}); metrics.jsonl has all figures")
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        opened["prometheus"] = _Prometheus(stage)
    return Trackers(opened, note)


class _TensorBoard(Tracker):
    """Event files below the model's directory; for a remote one, written here and copied at the end."""

    def __init__(self, output: str, scratch: Path, first_step: int) -> None:
        self._uri = storage.join(output, TENSORBOARD_DIRECTORY)
        self._remote = not storage.is_local(output)
        self._directory = scratch / TENSORBOARD_DIRECTORY if self._remote else storage.local_path(self._uri)
        self._files = 0
        self._writer = self._opened(first_step)

    def _opened(self, first_step: int) -> Any:
        """A new file; what earlier ones have from `first_step` on is not shown."""
        from tensorboardX import SummaryWriter

        # Files are named after the second, and a second one of that name would overwrite the first.
        suffix = f".{self._files:04d}"
        self._files += 1
        return SummaryWriter(str(self._directory), purge_step=first_step, flush_secs=10, filename_suffix=suffix)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._opened(step)

    def close(self) -> None:
        self._writer.close()
        if self._remote:
            for file in self._directory.iterdir():
                storage.upload_file(file, storage.join(self._uri, file.name))


class _WandB(Tracker):
    """Weights & Biases; its own environment variables say where and as whom (`WANDB_MODE=offline` keeps it here)."""

    def __init__(self, stage: str, run_id: str, config: Mapping[str, Any], output: str) -> None:
        import wandb

        # Beside the model where that is local, so that an offline run can be synchronised later.
        directory = storage.local_path(output) if storage.is_local(output) else None
        self._run = wandb.init(
            project=_PROJECT,
            name=stage,
            id=run_id,
            resume="allow",
            config=dict(config),
            dir=directory,
            settings=wandb.Settings(console="off", silent=True),
        )
        # A step of our own: W&B's never goes back, and a resumed or rewound run's does.
        self._run.define_metric("*", step_metric="train_step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({**figures, "train_step": step})

    def close(self) -> None:
        self._run.finish()


class _MLflow(Tracker):
    """MLflow; `MLFLOW_TRACKING_URI` says where. Every call of its client is a request that is waited for."""

    def __init__(self, stage: str, run_id: str, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._client = MlflowClient()
        experiment = self._client.get_experiment_by_name(_PROJECT)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(_PROJECT)
        earlier = self._client.search_runs([experiment_id], f"tags.raymill_run = '{run_id}'", max_results=1)
        if earlier:
            self._run_id = earlier[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            run = self._client.create_run(experiment_id, run_name=stage, tags={"raymill_run": run_id})
            self._run_id = run.info.run_id
            for name, value in config.items():
                self._client.log_param(self._run_id, name, str(value)[:500])
        self._sender = BackgroundSender(self._send)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._sender.put([Metric(name, value, now_ms, step) for name, value in figures.items()])

    def _send(self, rows: list[list[Any]]) -> None:
        metrics = [metric for row in rows for metric in row]
        for first in range(0, len(metrics), _MOST_IN_BATCH):
            self._client.log_batch(self._run_id, metrics[first : first + _MOST_IN_BATCH], synchronous=True)

    def close(self) -> None:
        self._sender.close()
        self._client.set_terminated(self._run_id)


class _Prometheus(Tracker):
    """Gauges on the metrics endpoint of Ray's node: `ray_raymill_loss{stage="base"}` and the like."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._gauges: dict[str, Any] = {}

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from ray.util.metrics import Gauge

        for figure, value in {"step": float(step), **figures}.items():
            name, source = gauge_of(figure)
            if name not in self._gauges:
                what = f"{figure.partition('/')[0]} of a training stage"
                self._gauges[name] = Gauge(name, what, tag_keys=("stage", "source"))
            self._gauges[name].set(value, tags={"stage": self._stage, "source": source})

    def close(self) -> None:
        pass


def gauge_of(figure: str) -> tuple[str, str]:
    """(name, tag `source`) of a figure's gauge: `heldout_loss/web-1.gz` is `raymill_heldout_loss{source="web-1.gz"}`.

    A figure of no source has "", which is to Prometheus as if there were no such tag.
    """
    name, _, source = figure.partition("/")
    return "raymill_" + re.sub(r"[^A-Za-z0-9_]", "_", name), source


class BackgroundSender(Generic[Row]):
    """Has `send` called with rows, in order and as many at a time as there are, from a thread of its own.

    `put` waits while `most_waiting` rows do. An error of `send` ends the thread; the next `put` or `close` raises it.
    """

    def __init__(self, send: Callable[[list[Row]], None], *, most_waiting: int = _MOST_WAITING) -> None:
        self._send, self._most_waiting = send, most_waiting
        self._waiting: list[Row] = []
        self._closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="raymill-tracker", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._most_waiting or self._error is not None)
            if self._error is not None:
                raise self._error
            self._waiting.append(row)
            self._changed.notify_all()

    def close(self) -> None:
        """Return once all rows are sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                rows, self._waiting = self._waiting, []
                self._changed.notify_all()
            if not rows:
                return
            try:
                self._send(rows)
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
