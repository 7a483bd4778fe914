"""The child process: what hangs, eats memory or crashes costs its own item and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.contracts.errors import StageFailed
from dataprep.killable_process import Failure, KillableMap
from tests.unit.dataprep.risky_work import unable, work

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def killable() -> Iterator[KillableMap[str, str]]:
    made = KillableMap(work, warm_up="x", timeout_s=0.4, memory_bytes=100 << 20)
    yield made
    made.close()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reasons(results: list[str | Failure]) -> list[str]:
    return [r.reason if isinstance(r, Failure) else r for r in results]


def test_results_come_in_order_and_one_child_does_all_batches(killable: KillableMap[str, str]) -> None:
    items = [f"item {i} " * 1000 for i in range(200)]
    assert killable(items) == [item.upper() for item in items]
    first, second = killable(["pid", "pid"])
    assert [first] == killable(["pid"]) == [second]
    assert first != str(os.getpid())
    assert killable([]) == []


@pytest.mark.parametrize(
    ("item", "reason"),
    [("spin", "timeout"), ("eat:40", "memory"), ("segfault", "crashed"), ("raise", "failed")],
)
def test_a_bad_item_becomes_a_failure_and_its_neighbours_have_results(
    item: str, reason: str, killable: KillableMap[str, str]
) -> None:
    assert reasons(killable(["a", "b", item, "c", item, "d"])) == ["A", "B", reason, "C", reason, "D"]


def test_an_item_that_only_sleeps_is_killed_too(
    monkeypatch: pytest.MonkeyPatch, killable: KillableMap[str, str]
) -> None:
    monkeypatch.setattr("dataprep.killable_process._WALL_PER_CPU_S", 1.0)
    assert reasons(killable(["a", "sleep", "b"])) == ["A", "timeout", "B"]


def test_an_item_does_not_pay_for_what_others_left_behind(killable: KillableMap[str, str]) -> None:
    assert reasons(killable(["leak:40", "leak:40", "leak:40", "eat:4"])) == ["LEAK:40"] * 3 + ["4"]


def test_a_child_killed_from_outside_is_replaced(killable: KillableMap[str, str], tmp_path: Path) -> None:
    (pid,) = killable(["pid"])
    os.kill(int(str(pid)), signal.SIGKILL)
    assert killable(["a"]) == ["A"]
    assert killable(["a", f"once:{tmp_path}/mark", "b"]) == ["A", "done", "B"]


def test_the_child_goes_when_its_parent_does_not_want_it(killable: KillableMap[str, str]) -> None:
    (pid,) = killable(["pid"])
    killable.close()
    assert not is_running(int(str(pid)))


def test_the_child_of_a_killed_parent_ends_even_in_the_middle_of_its_work() -> None:
    parent = (
        "from dataprep.killable_process import KillableMap; from tests.unit.dataprep.risky_work import work\n"
        "child = KillableMap(work, warm_up='x', timeout_s=0.5, memory_bytes=1 << 30)\n"
        "print(child(['pid'])[0], flush=True)\n"
        "child(['spin'])"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 20
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)


def test_a_function_that_can_never_work_is_an_error_with_its_cause() -> None:
    broken = KillableMap(unable, warm_up="HTML", timeout_s=1, memory_bytes=1 << 30)
    with pytest.raises(StageFailed, match=r"can't be started: ImportError: no library for HTML"):
        broken(["a"])
