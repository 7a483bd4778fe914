"""What `test_post_training_kills.py` starts: stages in a plain process, killed with -9 at random, and once left alone.

As in `killed_process_job.py`, each start is a fork of this process, which has everything imported.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import peft
import torch._inductor.compile_fx  # what DeepSpeed imports at its first engine
import trl
from datasets import Dataset
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.post_training.parity import Case, make_inputs, run_ours
from cluster.contracts.progress import Progress, SilentProgress
from tests.integration.killed_process_job import finished, fork
from training.engine.deepspeed_engine import load_deepspeed
from training.post_training import dpo, kto, reward_model, sft


class KilledAtRandom(SilentProgress):
    """Kills its process within `delay_s` of the `steps`-th step: in a step, a checkpoint, the export, a measurement."""

    def __init__(self, steps: int, delay_s: float) -> None:
        self.steps, self.delay_s = steps, delay_s

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        self.steps -= 1
        if self.steps == 0:
            threading.Thread(target=self.kill, args=(done,), daemon=True).start()

    def kill(self, step: float) -> None:
        time.sleep(self.delay_s)
        print(f"killed after step {step:.0f}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def to_its_end(root: Path, case: Case, progress: Progress) -> bool:
    """Whether the run came to its end; it has dropout, so random numbers must go on where they were."""
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.1} if case.lora else None
    return finished(fork(lambda: run_ours(root, case, progress, checkpoint_every_steps=2, lora=lora)))


if __name__ == "__main__":
    root, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    load_deepspeed()
    preloaded = (torch._inductor.compile_fx, peft, trl.SFTTrainer, trl.DPOTrainer, trl.RewardTrainer, trl.KTOTrainer)
    preloaded += (Dataset, AutoTokenizer, LlamaForCausalLM, dpo, kto, reward_model, sft)
    for directory in ("undisturbed", "killed"):
        (root / directory).mkdir()
        make_inputs(root / directory)
    moments = random.Random(seed)
    for kind in sys.argv[4:]:
        case = Case(kind, zero_stage=moments.randrange(4), lora=kind in ("sft", "dpo"))
        print(f"{case.name}", flush=True)
        assert to_its_end(root / "undisturbed", case, SilentProgress())
        killed = 0
        for _ in range(kills):
            progress = KilledAtRandom(moments.randint(1, 4), moments.uniform(0, 0.3))
            killed += not to_its_end(root / "killed", case, progress)
        to_its_end(root / "killed", case, SilentProgress())
        print(f"{case.name}: {killed} kills", flush=True)
