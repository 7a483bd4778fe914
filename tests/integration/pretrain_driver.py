"""A driver as `raymill run` is one, on a cluster of nodes with one CPU each: `ROOT OUTPUT ADDRESS`.

It trains with two workers, which say below ROOT how far they are, so that a test can choose what to kill and when.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from cluster.contracts.artifacts import StageContext, open_artifact
from cluster.contracts.progress import SilentProgress
from tests.integration.test_pretrain import tiny_config
from training.pretrain.stage import run


@dataclass(frozen=True)
class Followed(SilentProgress):
    """Writes how far rank 0 is to `progress`, and notes to `notes`; steps take a moment, so that they can be hit."""

    root: Path

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        (self.root / "progress").write_text(str(int(done)))
        time.sleep(0.1)

    def note(self, message: str) -> None:
        with open(self.root / "notes", "a") as notes:
            notes.write(f"{time.strftime('%H:%M:%S')} {message}\n")


if __name__ == "__main__":
    root, output, address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    ray.init(address=address, log_to_driver=False)
    inputs = {"tokens": open_artifact(str(root / "tokens")), "tokenizer": open_artifact(str(root / "tokenizer"))}
    context = StageContext("base", Followed(root), root / "scratch", root / "logs")
    config = tiny_config(num_workers=2, workers={"num_workers": 2, "cpus": 1, "max_failures": 2})
    run(config, inputs, output, context)
