"""How a standing group's workers get their jobs: an actor that holds them until they are asked for.

Its process imports nothing of ours but this module.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Mailbox:
    """Jobs in the order of their numbers, and what became of them. Every method waits where there is nothing yet.

    Jobs and results are object references in lists, which Ray hands on without looking inside.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._jobs: list[list[Any]] = []
        self._closed = False
        self._workers: dict[int, list[Any]] = {}  # rank -> [the worker's actor handle]
        self._begun: dict[int, set[int]] = {}  # number of the job -> ranks that began it
        self._results: dict[int, dict[int, list[Any]]] = {}  # number of the job -> rank -> [result]
        self._changed = asyncio.Condition()

    async def post(self, job: list[Any]) -> int:
        """Add a job; returns its number."""
        async with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
        return len(self._jobs) - 1

    async def close(self) -> None:
        """There will be no more jobs."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def take(self, number: int) -> list[Any] | None:
        """The job of that number, for a worker; None once there are no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._jobs) > number or self._closed)
        return self._jobs[number] if len(self._jobs) > number else None

    async def arrive(self, rank: int, worker: list[Any]) -> None:
        """Say that `rank` is there to take jobs, and by which handle it is killed."""
        self._workers[rank] = worker

    async def workers(self) -> list[list[Any]]:
        """The handles of all workers that have arrived."""
        return list(self._workers.values())

    async def begin(self, number: int, rank: int) -> None:
        """Say that `rank` has taken a job and begins it."""
        self._begun.setdefault(number, set()).add(rank)

    async def has_begun(self, number: int) -> bool:
        """Whether all ranks have begun a job."""
        return len(self._begun.get(number, ())) == self._num_workers

    async def finish(self, number: int, rank: int, result: list[Any]) -> None:
        """Say that `rank` has finished a job."""
        async with self._changed:
            self._results.setdefault(number, {})[rank] = result
            self._changed.notify_all()

    async def result(self, number: int) -> list[Any]:
        """What rank 0 returned, once all ranks have finished the job."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._results.get(number, ())) == self._num_workers)
        return self._results.pop(number)[0]
