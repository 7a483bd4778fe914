"""Patience with a store that fails for a while: the one place that says how often and how long apart to try again."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cluster.contracts.errors import CorruptArtifact, StorageError

T = TypeVar("T")

_LASTING_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG})


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with jitter: before attempt n + 1, between half and all of `first_wait_s` * 2**(n - 1)."""

    attempts: int = 6  # in all; about a minute with the waits below
    first_wait_s: float = 2.0
    max_wait_s: float = 30.0

    def wait_s(self, attempt: int) -> float:
        """How long to wait after attempt n, counted from 1, failed. Random, so that many tasks do not knock at once."""
        longest = min(self.max_wait_s, self.first_wait_s * 2 ** (attempt - 1))
        return random.uniform(longest / 2, longest)


def is_passing(error: Exception) -> bool:
    """Whether an error may go away by itself: the store's, and neither a missing file nor a full disk."""
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING_ERRORS) and error.errno not in _LASTING_ERRNOS
    return isinstance(error, StorageError) and not isinstance(error, CorruptArtifact)


def with_patience(operation: Callable[[], T], backoff: Backoff) -> T:
    """The result of an idempotent operation, tried again while `is_passing`. Raises what its last attempt raised."""
    attempt = 1
    while True:
        try:
            return operation()
        except Exception as error:
            if attempt >= backoff.attempts or not is_passing(error):
                raise
        time.sleep(backoff.wait_s(attempt))
        attempt += 1
