"""The errors that Raymill raises on purpose.

    RaymillError            any of those below; the CLI prints its message without a stack trace
    ├── SpecError           the job spec is wrong; carries every problem found, not the first
    ├── InputError          an input is missing, empty or not what the stage takes
    ├── ResourceError       there is too little disk, memory or CPUs and GPUs, or a port is taken
    ├── StorageError        a store could not be read or written
    │   └── CorruptArtifact a committed file's size or checksum is not the one in its marker
    └── StageFailed         a stage's workers failed; says which stage, rank, shard or row

An error message says what was wrong, the value received, what is allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class RaymillError(Exception):
    """The base of all errors raised on purpose. `exit_code` is what `raymill` exits with."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a job spec."""

    path: str  # where in the spec, dotted: "stages.dpo.beta"
    value: object  # what stood there
    message: str  # what is wrong with it
    allowed: str = ""  # what would be accepted, or what to change

    def __str__(self) -> str:
        shown = "" if self.value is None else f" (got {self.value!r})"
        allowed = f"\n    {self.allowed}" if self.allowed else ""
        return f"{self.path or 'spec'}: {self.message}{shown}{allowed}"


class SpecError(RaymillError):
    """A job spec that can't be run. `problems` has all that is wrong with it."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = list(problems)
        self.source = source
        count = len(self.problems)
        head = f"{source or 'The job spec'} has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))

    def __reduce__(self) -> tuple[type[SpecError], tuple[list[Problem], str]]:
        return (SpecError, (self.problems, self.source))


class InputError(RaymillError):
    """An input is missing, empty, or not what the stage takes."""

    exit_code = 2


class ResourceError(RaymillError):
    """The machine or cluster has too little of something the stage needs."""

    exit_code = 3


class StorageError(RaymillError):
    """A store could not be read or written, although that was tried several times."""

    exit_code = 4


class CorruptArtifact(StorageError):
    """A committed file is not the one that its marker describes."""


class StageFailed(RaymillError):
    """A stage's workers failed. The message names the stage and where in it."""
