"""Bar 3: the time of an optimizer step of SFT beside plain TRL's, in turn, in one run.

Both train the same model on the same rows in processes of one thread. Ours is the whole loop: the engine, the checks of
each step and the log. What counts is the ratio of the median steps of all rounds.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.post_training.parity import Case, make_inputs, plain, run_ours
from cluster.contracts.progress import SilentProgress

ROUNDS = 3
CASE = Case("sft")


class Clock(SilentProgress):
    """Seconds from the end of a step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def make_larger_model(directory: Path) -> None:
    """A Llama of 10 million parameters in place of the toy, so that a step is arithmetic and not calls."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        directory,
        hidden_size=320,
        intermediate_size=960,
        num_hidden_layers=7,
        num_attention_heads=5,
        num_key_value_heads=5,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)


def figures() -> list[Figure]:
    """The ratio of plain TRL's step to ours."""
    ours, theirs = list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="raymill-step-time-") as directory:
        root = Path(directory)
        make_inputs(root, num_conversations=240)
        make_larger_model(root / "model")
        for _ in range(ROUNDS):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.post_training.step_time", directory],
                capture_output=True,
                text=True,
                check=True,
            )
            ours += [float(value) for value in done.stdout.split()]
            theirs += plain(root, CASE).seconds
            rows = (root / CASE.name / "rows.json").read_text()
            shutil.rmtree(root / CASE.name)  # a finished stage would give its result again
            (root / CASE.name).mkdir()
            (root / CASE.name / "rows.json").write_text(rows)
    our_step, their_step = statistics.median(ours), statistics.median(theirs)
    return [
        Figure(
            "3",
            "step of SFT beside plain TRL's",
            "ratio",
            their_step / our_step,
            0.97,
            ours=our_step,
            peer=their_step,
            note=f"median seconds of {len(ours)} and {len(theirs)} steps of 8 rows, 10 million parameters, one thread",
            module="post_training",
        )
    ]


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    clock = Clock()
    run_ours(Path(sys.argv[1]), CASE, clock, workers={"num_workers": 1, "cpus": 1})
    print(*clock.seconds)
