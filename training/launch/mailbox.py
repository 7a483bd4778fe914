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
