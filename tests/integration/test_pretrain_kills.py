"""Pre-training ends with the losses of the undisturbed run, bit for bit, whatever is killed with -9, and when."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.test_pretrain import losses
from tests.integration.token_fixtures import make_tokenizer, make_tokens

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6


def test_a_process_killed_at_random_moments_ends_with_the_losses_of_the_undisturbed_run(tmp_path: Path) -> None:
    """At steps and, every other time, while a checkpoint is written."""
    make_tokens(tmp_path / "tokens")
    make_tokenizer(tmp_path / "tokenizer")
    seed = random.Random(os.getpid()).randrange(10**6)
    print("seed", seed)
    command = [sys.executable, "-m", "tests.integration.killed_process_job", str(tmp_path), str(seed), str(KILLS)]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    print(job.stdout)
    assert job.returncode == 0, job.stderr[-3000:]
    assert len(re.findall("killed after step", job.stdout)) == KILLS
    assert "writing checkpoint-" in job.stdout
    assert losses(tmp_path / "killed", 40) == losses(tmp_path / "undisturbed", 40)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "undisturbed")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed" / "checkpoints").exists()
