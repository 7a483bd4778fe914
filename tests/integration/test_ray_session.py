"""Starting Ray: what fails is tried again and then said in a sentence, and nothing of it is left.

Each test has a process of its own, since stopping Ray stops that of the other tests too.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]

FAILING_START = """
import subprocess
import psutil
from cluster import ray_session
from cluster.contracts.errors import ResourceError

ray_session._PAUSE_S = 0.0
children, notes = [], []

def start():
    children.append(psutil.Process(subprocess.Popen(["sleep", "1000"]).pid))
    raise Exception("The current node timed out")

try:
    ray_session._start(start, notes.append)
except ResourceError as error:
    print(error)
print(len(children), "attempts", len([n for n in notes if n.startswith("Ray did not start (")]), "notes")
print("left:", [child.pid for child in children if child.is_running() and child.status() != "zombie"])
"""

LEFT_BEHIND = """
import os, subprocess, sys, time
import psutil
from cluster.ray_session import end_left_processes

def start(session):
    command = [sys.executable, "-c", "import time; time.sleep(1000)", "/ray/", session]
    return psutil.Process(subprocess.Popen(command).pid)

own = start(f"--session-name=session_2026-01-31_00-00-00_000000_{os.getpid()}")
strangers = [start(f"--session-name=session_2026-01-31_00-00-00_000000_{os.getpid()}{end}") for end in ("0", "_1")]
while not all("1000" in "".join(p.cmdline()) for p in (own, *strangers)):
    time.sleep(0.05)
end_left_processes(wait_s=0.0)
own.wait(10)
print([stranger.is_running() for stranger in strangers])
for stranger in strangers:
    stranger.kill()
"""

LATE_CALL = """
import cluster.ray_session
import ray

try:
    ray.put(1)
except Exception as error:
    print(type(error).__name__)
print("running:", ray.is_initialized())
"""


def _output(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_ray_that_never_starts_is_tried_twice_and_given_up_in_a_sentence_with_no_process_left() -> None:
    shown = _output(FAILING_START)
    assert "Ray could not be started on this machine in 2 attempts" in shown
    assert "The current node timed out" in shown
    assert "2 attempts 1 notes" in shown
    assert "left: []" in shown


def test_a_call_of_ray_outside_a_session_starts_no_ray_and_joins_none() -> None:
    shown = _output(LATE_CALL)
    assert "RaySystemError" in shown
    assert "running: False" in shown


def test_of_a_ray_that_was_stopped_no_process_is_left_and_a_strangers_is_left_alone() -> None:
    assert _output(LEFT_BEHIND) == "[True, True]\n"
