"""Stages that TRL trains end with the losses of the undisturbed run, whenever they are killed with -9."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.metrics.metrics_log import METRICS, read_metrics

ROOT = Path(__file__).resolve().parents[2]


def check_killed(root: Path, kinds: list[str], kills: int) -> None:
    seed = random.Random(os.getpid()).randrange(10**6)
    command = [sys.executable, "-m", "tests.integration.killed_stage_job", str(root), str(seed), str(kills), *kinds]
    left_behind = ("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_behind)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(f"seed {seed}\n{done.stdout}")
    assert done.returncode == 0, done.stderr[-3000:]
    names = re.findall(r"^(\S+): [1-9]\d* kills$", done.stdout, re.MULTILINE)
    assert len(names) == len(kinds), "each was killed at least once"
    for name in names:
        rows, expected = (read_metrics(root / run / name / METRICS) for run in ("killed", "undisturbed"))
        assert [row["step"] for row in rows] == [row["step"] for row in expected]
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
        weights, unhurt = (load_file(root / run / name / "model.safetensors") for run in ("killed", "undisturbed"))
        for key, value in unhurt.items():
            torch.testing.assert_close(weights[key], value, atol=1e-5, rtol=0)
        assert not (root / "killed" / name / "checkpoints").exists()


def test_a_stage_killed_at_random_ends_with_the_losses_of_the_undisturbed_run(tmp_path: Path) -> None:
    check_killed(tmp_path, ["dpo"], kills=3)


@pytest.mark.soak
def test_so_does_each_of_them(tmp_path: Path) -> None:
    check_killed(tmp_path, ["sft", "reward_model", "dpo", "kto"], kills=6)
