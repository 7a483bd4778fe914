"""Trying again where a store fails for a while: how often, how long apart, and which errors may pass by themselves.

Operations that are tried again call one another (a task reads a part, which reads a file). Only the outermost waits:
else six attempts of six attempts each would make a lost store look like a hang.
"""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from cluster.contracts.errors import CorruptArtifact, StorageError

A = TypeVar("A")
T = TypeVar("T")

_waited_for: ContextVar[bool] = ContextVar(
    "_waited_for", default=False
)  # whether a caller of this one tries again already

_LASTING_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_ANSWERS = re.compile(
    r"AWS Error (?:ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH)\b"
)
_LASTING_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG})


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with jitter: half to all of `first_wait_s` x 2^(n - 1) between attempts n and n + 1."""

    attempts: int = 6  # in all; with the waits below they take about a minute
    first_wait_s: float = 2.0
    max_wait_s: float = 30.0

    def wait_s(self, attempt: int) -> float:
        """How long to wait after attempt n, from 1, failed; random, so that many tasks do not come back at once."""
        longest = min(self.max_wait_s, self.first_wait_s * 2 ** (attempt - 1))
        return random.uniform(longest / 2, longest)


def is_passing(error: Exception) -> bool:
    """Whether an error may pass by itself: a store's, but no missing file, refused access, full disk or bad URI."""
    if _LASTING_ANSWERS.search(str(error)):
        return False
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING_ERRORS) and error.errno not in _LASTING_ERRNOS
    if isinstance(error, CorruptArtifact) or isinstance(error.__cause__, ValueError):
        return False
    return isinstance(error, StorageError)


def retrying(operation: Callable[[], T], backoff: Backoff, *, asked: str | None = None) -> T:
    """The result of an idempotent operation, which is tried again while its error `is_passing`.

    Raises what the last attempt raised, or, where the caller says what it `asked` of a store ("list s3://b/x"), a
    `StorageError` with that in it. Inside another operation that is tried again, this one is tried once: the outer one
    waits. Threads that the outer one starts only know of it by `retrying_as_here`.
    """
    if _waited_for.get():
        return operation()
    token = _waited_for.set(True)
    try:
        return _tried_again(operation, backoff, asked)
    finally:
        _waited_for.reset(token)


def retrying_as_here(function: Callable[[A], T]) -> Callable[[A], T]:
    """`function` for threads: where the caller is inside an operation that is tried again, they try once too."""
    waited_for = _waited_for.get()

    def call(argument: A) -> T:
        token = _waited_for.set(waited_for)
        try:
            return function(argument)
        finally:
            _waited_for.reset(token)

    return call


def _tried_again(operation: Callable[[], T], backoff: Backoff, asked: str | None) -> T:
    attempt, started = 1, time.monotonic()
    while True:
        try:
            return operation()
        except Exception as error:
            if not is_passing(error):
                raise
            if attempt >= backoff.attempts:
                if asked is None:
                    raise
                tried = f"{attempt} attempts in {time.monotonic() - started:.0f} s"
                raise StorageError(f"can't {asked}: {error} ({tried})") from error
        time.sleep(backoff.wait_s(attempt))
        attempt += 1
