"""Applies a function to many items in a child process that can be killed: for native code that hangs or eats memory.

No thread can interrupt native code, and one wrong address in it ends the whole process. So a long-lived child does the
work, batch by batch. The operating system enforces its limits: a timer of CPU time for each item, so that a busy
machine changes no outcome, and a ceiling on its address space. The child marks the item in progress in a file, so that
it is known whatever killed the child. That item becomes a `Failure`, and a new child goes on with the others.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, TypeVar

import psutil

from cluster.contracts.errors import StageFailed

Item = TypeVar("Item")
Result = TypeVar("Result")

_START_TIMEOUT_S = 300.0  # to import all, and maybe compile kernels
_WALL_PER_CPU_S = 20.0  # wall time for each second of the limit, which ends an item that sleeps instead of working
_COMMAND = "import sys; from dataprep.killable_process import serve; serve(*map(int, sys.argv[1:]))"
_DETAIL_CHARACTERS = 500
_OUT_OF_MEMORY = 3  # the child's exit status


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no result."""

    reason: str  # "timeout", "memory", "crashed" (the process died) or "failed" (the function raised)
    detail: str


def child_environment() -> dict[str, str]:
    """The environment of a child process that is to find the same modules as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class KillableMap(Generic[Item, Result]):
    """A function to be applied in a child process, which is started at the first call.

    `function` and items must be picklable, and a result should depend on its item alone. The function is first called
    with the item `warm_up`, before the limits hold, so that it loads what it loads lazily. `timeout_s` is the CPU time
    of one item in seconds, `memory_bytes` how much the child may grow, results included.
    """

    def __init__(
        self, function: Callable[[Item], Result], *, warm_up: Item, timeout_s: float, memory_bytes: int
    ) -> None:
        self._task = pickle.dumps((function, warm_up, timeout_s, memory_bytes))
        self._timeout_s, self._memory_bytes = timeout_s, memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        # Holds the index of the item in progress.
        self._progress = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as this lives)
        self._served = 0  # items of earlier batches that the present child has done
        self.num_started = 0  # how many children there have been

    def __call__(self, items: Sequence[Item]) -> list[Result | Failure]:
        """The result of each item, or why it has none. Raises `StageFailed` where no child can be started."""
        results: list[Result | Failure] = []
        while len(results) < len(items):
            rest = items[len(results) :]
            outcome = self._attempt(rest)
            if not isinstance(outcome, Failure):
                return results + outcome
            culprit, alone = self._in_progress(), self._served == 0
            self.close()
            results += self(rest[:culprit])  # these were done, but their results died with the child
            if outcome.reason == "timeout" or (culprit == 0 and alone):
                results.append(outcome)
            else:  # what earlier items left behind may be the cause, so it is tried in a child of its own
                self.close()
                results += self([rest[culprit]])
        return results

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _attempt(self, items: Sequence[Item]) -> list[Result | Failure] | Failure:
        """The results of a batch, or why the child failed at the item in progress."""
        connection = self._connection or self._start()
        self._mark(0)
        patience_s = self._timeout_s * _WALL_PER_CPU_S
        try:
            connection.send_bytes(pickle.dumps(items))
            seen = 0
            while not connection.poll(patience_s):
                if self._in_progress() == seen:
                    return Failure("timeout", f"no progress in {patience_s:g} s")
                seen = self._in_progress()
            results: list[Result | Failure] = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            return self._cause_of_death()
        self._served += len(items)
        return results

    def _mark(self, index: int) -> None:
        os.pwrite(self._progress.fileno(), struct.pack("<q", index), 0)

    def _in_progress(self) -> int:
        return int(struct.unpack("<q", os.pread(self._progress.fileno(), 8, 0))[0])

    def _start(self) -> Connection[Any, Any]:
        ours, theirs = Pipe()
        with theirs:
            descriptors = [theirs.fileno(), self._progress.fileno()]
            command = [sys.executable, "-c", _COMMAND, *map(str, descriptors)]
            self._process = subprocess.Popen(command, pass_fds=descriptors, env=child_environment())
        self._connection = ours
        self._served = 0
        self.num_started += 1
        try:
            ours.send_bytes(self._task)
            problem = pickle.loads(ours.recv_bytes()) if ours.poll(_START_TIMEOUT_S) else "it does not answer"
        except (EOFError, ConnectionError):
            problem = self._cause_of_death().detail
        if problem:
            self.close()
            raise StageFailed(f"the process that does the risky work can't be started: {problem}")
        return ours

    def _cause_of_death(self) -> Failure:
        assert self._process is not None
        status = self._process.wait()
        if status == -signal.SIGPROF:
            return Failure("timeout", f"over {self._timeout_s:g} s of CPU time")
        if status in (_OUT_OF_MEMORY, -signal.SIGKILL):
            return Failure("memory", f"over {self._memory_bytes} bytes")
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return Failure("crashed", f"the process that worked on it ended with {name}")


def serve(connection_descriptor: int, progress_descriptor: int) -> None:
    """What the child does: it answers batch after batch, until its parent is gone."""
    connection: Connection[Any, Any] = Connection(connection_descriptor)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default, whatever the parent had set
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    try:
        function, warm_up, timeout_s, memory_bytes = pickle.loads(connection.recv_bytes())
        function(warm_up)
    except Exception as error:
        connection.send_bytes(pickle.dumps(f"{type(error).__name__}: {error}"))
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + memory_bytes, hard))
    connection.send_bytes(pickle.dumps(""))
    try:
        while True:
            results = []
            for index, item in enumerate(pickle.loads(connection.recv_bytes())):
                os.pwrite(progress_descriptor, struct.pack("<q", index), 0)
                signal.setitimer(signal.ITIMER_PROF, timeout_s)  # its signal ends the process, also within native code
                results.append(_result(function, item))
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(pickle.dumps(results))
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    except (EOFError, ConnectionError):
        return


def _result(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except MemoryError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"[:_DETAIL_CHARACTERS]
        return Failure("failed", detail.encode(errors="backslashreplace").decode())
