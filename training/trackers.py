"""Where a run's metrics go beside `metrics.jsonl`: TensorBoard, W&B, MLflow, and Ray's Prometheus endpoint.

Each is a small adapter with `log(step, figures)` and `close()`, made on rank 0 only. `metrics.jsonl` is the record;
these are views of it, and where one of them fails in the middle of a run, that is noted once and training goes on.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cluster.contracts import storage
from cluster.contracts.errors import InputError

TENSORBOARD_DIRECTORY = "tensorboard"
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardX"}
_PROJECT = "raymill"


class Tracker(Protocol):
    """One destination."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

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

    def close(self) -> None:
        """Send what is left."""
        self._each(lambda tracker: tracker.close())

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


class _TensorBoard:
    """Event files below the model's directory; for a remote one, written here and copied at the end."""

    def __init__(self, output: str, scratch: Path, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._uri = storage.join(output, TENSORBOARD_DIRECTORY)
        self._remote = not storage.is_local(output)
        self._directory = scratch / TENSORBOARD_DIRECTORY if self._remote else storage.local_path(self._uri)
        # What an earlier attempt wrote from this step on is not shown.
        self._writer = SummaryWriter(str(self._directory), purge_step=first_step or None, flush_secs=10)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
        if self._remote:
            for file in self._directory.iterdir():
                storage.upload_file(file, storage.join(self._uri, file.name))


class _WandB:
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


class _MLflow:
    """MLflow; `MLFLOW_TRACKING_URI` says where."""

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

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


class _Prometheus:
    """Gauges on the metrics endpoint of Ray's node: `ray_raymill_loss{stage="base"}` and the like."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._gauges: dict[str, Any] = {}

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from ray.util.metrics import Gauge

        for name, value in {"step": float(step), **figures}.items():
            key = name.replace("/", "_").replace(".", "_")
            if key not in self._gauges:
                self._gauges[key] = Gauge(f"raymill_{key}", f"{name} of a training stage", tag_keys=("stage",))
            self._gauges[key].set(value, tags={"stage": self._stage})

    def close(self) -> None:
        pass
