"""What `test_pretrain_kills.py` starts: a run in a plain process, killed with -9 again and again, and one left alone.

Each start of the run is a fork of this process, which has everything imported and computes nothing itself; so a
start costs a second, not ten.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._inductor.compile_fx  # what DeepSpeed imports at its first engine
from transformers import AutoTokenizer, LlamaForCausalLM

from cluster.contracts.artifacts import StageContext, open_artifact
from cluster.contracts.progress import Progress, SilentProgress
from tests.integration.test_pretrain import tiny_config
from training import export, models
from training.engine.deepspeed_engine import load_deepspeed
from training.launch.workers import run_in_process
from training.pretrain.stage import run


class KilledAtRandom(SilentProgress):
    """Kills its process within `delay_s` of the `steps`-th step, or of the first checkpoint begun after that."""

    def __init__(self, steps: int, delay_s: float, *, in_checkpoint: bool) -> None:
        self.steps, self.delay_s, self.in_checkpoint = steps, delay_s, in_checkpoint

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        self.steps -= 1
        if self.steps == 0:
            threading.Thread(target=self.kill, args=(done,), daemon=True).start()

    def kill(self, step: float) -> None:
        while self.in_checkpoint and not writing():
            time.sleep(0.0002)
        time.sleep(self.delay_s)
        print(f"killed after step {step:.0f}{', writing ' + writing() if writing() else ''}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def writing() -> str:
    """The name of the thread that writes a checkpoint, if one does."""
    return next((thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint-")), "")


def train(root: Path, name: str, progress: Progress, **changes: Any) -> None:
    inputs = {"tokens": open_artifact(str(root / "tokens")), "tokenizer": open_artifact(str(root / "tokenizer"))}
    context = StageContext("base", progress, root / "scratch", root / "logs")
    run(tiny_config(**changes), inputs, str(root / name), context, launch=run_in_process)


def fork(work: Callable[[], None], **environment: str) -> int:
    """The id of a process that does `work` and ends with 0, or with 1 where it raised."""
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        try:
            work()
            os._exit(0)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def finished(child: int) -> bool:
    """Whether the process came to its end, not having been killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the run ended by itself with {status}"
    return status == 0


def long_run(root: Path, name: str, progress: Progress, **changes: Any) -> bool:
    """A run of one worker with a checkpoint every third step, to its end or until killed."""
    settings = {"num_workers": 1, "steps": 40, "checkpoint_every_steps": 3, **changes}
    return finished(fork(lambda: train(root, name, progress, **settings)))


def pair(root: Path) -> None:
    """The tests' short run of two workers, undisturbed: `two_workers`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [
        fork(lambda: train(root, "two_workers", SilentProgress(), num_workers=2), **group, RANK=rank, LOCAL_RANK=rank)
        for rank in ("0", "1")
    ]
    assert [finished(rank) for rank in ranks] == [True, True]


if __name__ == "__main__":
    root, seed, kills, zero_stage = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    load_deepspeed()
    preloaded = (torch._inductor.compile_fx, export, models, AutoTokenizer, LlamaForCausalLM)  # before the forks
    if zero_stage == 1:
        pair(root)
    assert long_run(root, "undisturbed", SilentProgress(), zero_stage=zero_stage)
    moments = random.Random(seed)
    for kill in range(kills):
        in_checkpoint = kill % 2 == 0
        delay_s = moments.uniform(0, 0.003 if in_checkpoint else 0.05)
        progress = KilledAtRandom(moments.randint(1, 5), delay_s, in_checkpoint=in_checkpoint)
        assert not long_run(root, "killed", progress, zero_stage=zero_stage), "the run ended before it was killed"
    assert long_run(root, "killed", SilentProgress(), zero_stage=zero_stage)
