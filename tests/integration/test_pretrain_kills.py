"""Pre-training ends with the losses of the undisturbed run, bit for bit, whatever is killed with -9, and when.

A worker that Ray Train restarts is killed in `test_pretrain.py`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.integration.test_pretrain import losses
from tests.integration.test_whole_way import _free_port as free_port
from tests.integration.token_fixtures import make_tokenizer, make_tokens

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, and the runs of `killed_process_job.py` at ZeRO-1: `undisturbed`, `killed` and `two_workers`."""
    root = tmp_path_factory.mktemp("kills")
    run_job(root, zero_stage=1)
    return root


def run_job(root: Path, *, zero_stage: int) -> None:
    make_tokens(root / "tokens")
    make_tokenizer(root / "tokenizer")
    seed = random.Random(os.getpid()).randrange(10**6)
    job = "tests.integration.killed_process_job"
    command = [sys.executable, "-m", job, str(root), str(seed), str(KILLS), str(zero_stage)]
    # Without what other tests' libraries left in the environment.
    environment = {k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=180)
    print(f"seed {seed}\n{done.stdout}")
    assert done.returncode == 0, done.stderr[-3000:]
    (root / "shown").write_text(done.stdout)


def test_a_process_killed_at_random_moments_ends_with_the_losses_of_the_undisturbed_run(root: Path) -> None:
    """At steps and, every other time, while a checkpoint is written."""
    check_killed(root)


@pytest.mark.soak
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_so_does_one_at_the_other_zero_stages(zero_stage: int, tmp_path: Path) -> None:
    run_job(tmp_path, zero_stage=zero_stage)
    check_killed(tmp_path)


def check_killed(root: Path) -> None:
    shown = (root / "shown").read_text()
    assert len(re.findall("killed after step", shown)) == KILLS
    assert "writing checkpoint-" in shown
    assert losses(root / "killed", 40) == losses(root / "undisturbed", 40)
    weights = [(root / name / "model.safetensors").read_bytes() for name in ("killed", "undisturbed")]
    assert weights[0] == weights[1]
    assert not (root / "killed" / "checkpoints").exists()


@pytest.fixture
def two_raylets() -> Iterator[tuple[Cluster, Any]]:
    """A cluster of two nodes with one CPU each, and the second of them."""
    directories: list[str] = []

    def node(**more: Any) -> dict[str, Any]:
        return {
            "num_cpus": 1,
            "object_store_memory": 100 * 2**20,
            "include_dashboard": False,
            "dashboard_agent_listen_port": free_port(),
            **more,
        }

    def add() -> Any:
        directories.append(tempfile.mkdtemp(prefix="rn"))  # of its own, as another machine has
        return cluster.add_node(**node(temp_dir=directories[-1]))

    cluster = Cluster(initialize_head=True, head_node_args=node())
    cluster.add = add  # type: ignore[attr-defined]
    try:
        yield cluster, add()
    finally:
        cluster.shutdown()
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


def wait_for_step(root: Path, step: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    progress = root / "progress"
    while not (progress.exists() and int(progress.read_text() or 0) >= step):
        assert driver.poll() is None, driver.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "no step in 90 s"
        time.sleep(0.02)


def kill_machine(node: Any) -> None:
    """Kill -9 a node's raylet and all that it started: left alone, its workers go on for seconds."""
    (raylet,) = node.all_processes["raylet"]
    for process in [raylet.process, *psutil.Process(raylet.process.pid).children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.soak
def test_a_killed_driver_and_a_killed_and_replaced_raylet_change_no_loss(
    root: Path, two_raylets: tuple[Cluster, Any]
) -> None:
    """Two workers on two raylets: the driver is killed and started again, then a raylet is killed and replaced."""
    cluster, second = two_raylets
    moments = random.Random(os.getpid())
    command = [sys.executable, "-m", "tests.integration.pretrain_driver", str(root), str(root / "two_raylets")]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, cluster.address], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    driver = start()
    wait_for_step(root, moments.randint(1, 7), driver)
    print("driver killed after step", (root / "progress").read_text())
    driver.kill()
    driver.communicate()
    (root / "progress").unlink()

    driver = start()
    try:
        wait_for_step(root, moments.randint(8, 10), driver)
        print("raylet killed after step", (root / "progress").read_text())
        kill_machine(second)
        killed_at = time.monotonic()
        cluster.add()
        shown = driver.communicate(timeout=120)[0]
    finally:
        driver.kill()
    print(f"ended {time.monotonic() - killed_at:.0f} s after the raylet was killed")
    assert driver.returncode == 0, shown[-3000:]
    notes = (root / "notes").read_text()
    print(notes)
    assert "starting the workers again (1 of 2 restarts without progress)" in notes
    assert losses(root / "two_raylets") == losses(root / "two_workers")
