"""A run interrupted at random moments, by Ctrl-C or a supervisor, ends as stopped each time and goes on each time.

All runs share a storage, so the moments wander through the stages; where a run ends before its moment, the next one
begins anew. With `RAYMILL_INTERRUPTIONS` more of them, and with `RAYMILL_BUSY_PROCESSES` beside so many busy loops.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTIONS = int(os.environ.get("RAYMILL_INTERRUPTIONS", "8"))
BUSY_PROCESSES = int(os.environ.get("RAYMILL_BUSY_PROCESSES", "2"))
LONGEST_S = 30.0
# Ctrl-C reaches all processes in the foreground, a supervisor's signal the driver alone or all processes.
WAYS = ("group SIGINT", "group SIGINT", "driver SIGINT", "driver SIGTERM", "group SIGTERM")


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Loops that want a core each."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(BUSY_PROCESSES)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.usefixtures("busy_machine")
def test_every_interruption_ends_as_stopped_and_leaves_no_process(tmp_path: Path) -> None:
    moments = random.Random(os.getpid())
    wrong, interrupted, storage = [], 0, 0
    while interrupted < INTERRUPTIONS:
        way, wait_s = moments.choice(WAYS), moments.uniform(0, LONGEST_S)
        # Most moments are counted from Ray's start on, the others from the process's.
        code, shown, left = _interrupt(tmp_path / str(storage), way, wait_s, from_ray=moments.random() < 0.8)
        if left is None:
            assert code == 0, shown
            storage += 1
            continue
        interrupted += 1
        early = code == -signal.SIGTERM and not shown  # while Python still imports the command line
        if not (code == 130 or early) or "Traceback" in shown or left:
            wrong.append(f"{way} after {wait_s:.1f} s: exit code {code}, {len(left)} processes left\n{shown}")
    assert wrong == []


def _interrupt(storage: Path, way: str, wait_s: float, *, from_ray: bool) -> tuple[int, str, list[int] | None]:
    """One run: its exit code, what it showed, and which of its processes are left; None where it ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "run", str(ROOT / "job_specs" / "smoke.yaml"), "--storage", str(storage)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    shown: list[str] = []
    ray_starts = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            shown.append(line)
            if line.startswith("starting Ray"):
                ray_starts.set()
        ray_starts.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    if from_ray:
        ray_starts.wait()
    try:
        code = process.wait(wait_s)
        reader.join()
        return code, "".join(shown), None
    except subprocess.TimeoutExpired:
        children = psutil.Process(process.pid).children(recursive=True)
    number = signal.SIGINT if "SIGINT" in way else signal.SIGTERM
    (os.killpg if way.startswith("group") else os.kill)(process.pid, number)
    code = process.wait(600)
    _, alive = psutil.wait_procs(children, timeout=300)
    reader.join()
    return code, "".join(shown), [child.pid for child in alive]
