"""Finds the rank that hangs, and names it.

When one rank stops, the others wait for it in their next collective, and none of them can say which one is to blame.
So every rank counts what it does (`Heartbeat.beat`: two machine words, no I/O), and a thread of each rank publishes the
count on the process group's store. A rank that has not moved for `timeout_s` looks at the others' counts: the ranks
with the lowest count are those waited for.

The thread also publishes where its own rank stands in the code, so that the message can say it. A process that is
stopped, or that holds the interpreter in native code, does not even answer; then the message says that.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import count as counter

import torch.distributed as dist

_SHARE_OF_TIMEOUT = 0.1  # how often a rank publishes, as a share of the timeout
_LONGEST_INTERVAL_S = 10.0
_LOOKS = 3  # intervals in which a process must publish to count as answering
_STORE_TIMEOUT = timedelta(seconds=10)


class Heartbeat:
    """What this rank has done so far. Without a watchdog it just counts."""

    def __init__(self) -> None:
        self.count, self.doing, self.resting = 0, "", False

    def beat(self, doing: str) -> None:
        """Say what begins now ("forward pass of step 7"); every rank says the same things in the same order."""
        self.count, self.doing, self.resting = self.count + 1, doing, False

    def rest(self, doing: str) -> None:
        """Like `beat`, before what may take as long as it likes, such as an upload: it is not called a hang."""
        self.beat(doing)
        self.resting = True


@dataclass(frozen=True)
class Pulse:
    """What a rank last published."""

    count: int
    doing: str
    stuck_at: str = ""  # file, line and function, once it hasn't moved for half the timeout
    published: int = 0  # how many times it has published: an answering process goes on counting
    resting: bool = False  # at work that may take long, or finished


def who_hangs(pulses: Mapping[int, Pulse], answering: frozenset[int]) -> str | None:
    """Which ranks the others wait for: those that are behind, or don't answer where all are alike.

    None where they wait for ranks that are known to take long. A rank by itself waits for nobody: it hangs.
    """
    if any(pulse.resting and (rank in answering or pulse.doing == FINISHED) for rank, pulse in pulses.items()):
        return None
    least = min(pulse.count for pulse in pulses.values())
    behind = sorted(rank for rank, pulse in pulses.items() if pulse.count == least)
    silent = sorted(set(pulses) - answering)
    if silent:
        named = [rank for rank in behind if rank in silent] or silent
    elif len(behind) < len(pulses) or len(pulses) == 1:
        named = behind
    else:
        doing = pulses[0].doing
        return f"all {len(pulses)} ranks wait in {doing!r}: the network between them, or a collective's deadlock"
    return "; ".join(_describe(rank, pulses[rank], rank in answering) for rank in named)


def _describe(rank: int, pulse: Pulse, answers: bool) -> str:
    place = f", at {pulse.stuck_at}" if pulse.stuck_at else ""
    if not answers:
        place += "; its process does not answer (stopped, or busy in native code)"
    return f"rank {rank} hangs in {pulse.doing!r}{place}"


FINISHED = "finished"
_GROUPS_WATCHED = counter()  # the same on all ranks, which all create their watchdogs in the same order


class Watchdog:
    """Calls `alarm(message)` once this rank has not moved for `timeout_s`; a context manager around the work.

    To be created in the thread that works, with the process group up. It watches from the first beat on, so a function
    that never beats is never called hung.
    """

    def __init__(
        self, heart: Heartbeat, *, rank: int, world_size: int, timeout_s: float, alarm: Callable[[str], None]
    ) -> None:
        # A connection of our own: the group's is locked while the main thread waits in it.
        connection = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
        connection.set_timeout(_STORE_TIMEOUT)
        self._store = dist.PrefixStore(f"raymill-watchdog-{next(_GROUPS_WATCHED)}", connection)
        self._heart, self._alarm = heart, alarm
        self._rank, self._world_size, self._timeout_s = rank, world_size, timeout_s
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._interval_s = min(timeout_s * _SHARE_OF_TIMEOUT, _LONGEST_INTERVAL_S)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="raymill-watchdog")

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        with suppress(Exception):
            self._publish(Pulse(self._heart.count, FINISHED, resting=True))
        # Not joined for long: with the peers gone, the store may take its own timeout to say so.
        self._thread.join(timeout=1.0)

    def _watch(self) -> None:
        seen, since, published = 0, time.monotonic(), 0
        overdue: list[dict[int, Pulse]] = []  # what all ranks had published, at each look since this one is overdue
        while not self._ended.wait(self._interval_s):
            count = self._heart.count
            if count != seen:
                seen, since = count, time.monotonic()
                overdue.clear()
            waited = time.monotonic() - since
            published += 1
            stuck_at = self._place() if count and waited > self._timeout_s / 2 else ""
            try:
                self._publish(Pulse(count, self._heart.doing, stuck_at, published, self._heart.resting))
                if not count or self._heart.resting or waited <= self._timeout_s:
                    continue
                if self._store.check(["verdict"]):  # of another rank, which may have left since
                    self._alarm(self._store.get("verdict").decode())
                    return
                overdue.append(self._read())
                if len(overdue) <= _LOOKS:
                    continue
                first, last = overdue[0], overdue[-1]
                answering = frozenset(r for r in last if last[r].published > first[r].published)
                culprit = who_hangs(last, answering)
                if culprit is None:
                    overdue.clear()
                    continue
                message = f"no progress for {waited:.0f} s (workers.hang_timeout_s): {culprit}"
                # The first verdict is everybody's: the rank that reached it publishes no more.
                self._alarm(self._store.compare_set("verdict", "", message).decode())
                return
            except Exception:
                # The store went with the rank that holds it, as the process group says too; or that rank is stopped.
                if count and not self._heart.resting and waited > self._timeout_s and not self._ended.is_set():
                    self._alarm(
                        f"no progress for {waited:.0f} s (workers.hang_timeout_s): rank 0 hangs; its process, which "
                        "keeps the group's store, does not answer"
                    )
                    return

    def _place(self) -> str:
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return ""
        stack = traceback.extract_stack(frame)
        ours = [entry for entry in stack if "site-packages" not in entry.filename]
        entry = (ours or list(stack))[-1]
        return f"{entry.filename}:{entry.lineno} in {entry.name}"

    def _publish(self, pulse: Pulse) -> None:
        self._store.set(str(self._rank), json.dumps(asdict(pulse)))

    def _read(self) -> dict[int, Pulse]:
        pulses = {}
        for rank in range(self._world_size):
            key = str(rank)
            # A get of a key that is not there would wait for it, with the store's lock held.
            pulses[rank] = (
                Pulse(**json.loads(self._store.get(key))) if self._store.check([key]) else Pulse(0, "starting")
            )
        return pulses
