"""A driver with workers on Ray, as `raymill run` is one: `ROOT OUTPUT`, and the address of a cluster to join if any.

Its workers' kills and pauses are in files below ROOT, so that the tests decide on them while it runs:
see `Disturbed`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from cluster.contracts.artifacts import StageContext, open_artifact
from cluster.contracts.progress import SilentProgress
from tests.integration.test_pretrain import tiny_config
from training.pretrain import run


@dataclass(frozen=True)
class Disturbed(SilentProgress):
    """Says how far rank 0 is (`progress`), and kills its process where `kill_at` says so; notes go to `notes`."""

    root: Path
    step_s: float  # slows steps down, so that there is time to disturb them

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        (self.root / "progress").write_text(str(int(done)))
        kill_at = self.root / "kill_at"
        if kill_at.exists() and json.loads(kill_at.read_text()) == done:
            kill_at.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.step_s)

    def note(self, message: str) -> None:
        with open(self.root / "notes", "a") as notes:
            notes.write(f"{time.time():.1f} {message}\n")


if __name__ == "__main__":
    root, output = Path(sys.argv[1]), sys.argv[2]
    if len(sys.argv) > 3:
        ray.init(address=sys.argv[3], log_to_driver=False)
    else:
        ray.init(address="local", num_cpus=1, object_store_memory=128 * 2**20, include_dashboard=False)
    inputs = {"tokens": open_artifact(str(root / "tokens")), "tokenizer": open_artifact(str(root / "tokenizer"))}
    context = StageContext("base", Disturbed(root, 0.1), root / "scratch", root / "logs")
    cpus = 1 if len(sys.argv) > 3 else 0.5  # on a cluster of nodes with one CPU: a worker on each
    config = tiny_config(num_workers=2, workers={"num_workers": 2, "cpus": cpus, "max_failures": 2})
    run(config, inputs, output, context)
