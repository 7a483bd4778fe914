"""CPU time and memory of this process and all below it, by looking several times a second.

Ray's daemon lets its workers' exit times fall on nobody, so a sum over the processes that live at the end misses those
that ended; each process's last seen time is kept instead. What a worker does in the last moment before it ends is
missed. The watching itself is not counted.
"""

from __future__ import annotations

import threading
import time

import psutil

_INTERVAL_S = 0.1


class ProcessTree:
    """Watches from `with` to its end."""

    def __init__(self) -> None:
        self._cpu_s: dict[tuple[int, float], float] = {}  # (pid, start) -> last seen
        self._before: dict[tuple[int, float], float] = {}
        self._watching_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.worker_mb = 0.0  # the most that any Ray worker had to itself: resident, shared memory apart

    def __enter__(self) -> ProcessTree:
        self._look()
        self._before = dict(self._cpu_s)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    @property
    def cpu_s(self) -> float:
        """User and system seconds of all processes between the beginning and the end."""
        return sum(last - self._before.get(key, 0.0) for key, last in self._cpu_s.items()) - self._watching_s

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._look()
        self._watching_s = time.thread_time()

    def _look(self) -> None:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                with process.oneshot():
                    times, key = process.cpu_times(), (process.pid, process.create_time())
                    self._cpu_s[key] = times.user + times.system
                    if process.name().startswith("ray::"):
                        memory = process.memory_info()
                        self.worker_mb = max(self.worker_mb, (memory.rss - memory.shared) / 1e6)
            except psutil.Error:
                continue  # it has ended
