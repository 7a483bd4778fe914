"""Reads the lists of words that a user gives as files: an entry a line, without blank lines and what follows a "#"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.contracts import storage
from cluster.contracts.errors import InputError


def read_word_lists(patterns: Iterable[str]) -> list[str]:
    """The entries of all files, in lower case. Raises `InputError` for a file that is missing or not UTF-8."""
    entries: list[str] = []
    for pattern in patterns:
        files = storage.expand(pattern)
        if not files:
            raise InputError(f"the word list {pattern} matches no file")
        for file in files:
            try:
                lines = storage.read_bytes(file.uri).decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(f"the word list {file.uri} is not UTF-8: {error}") from error
            entries += [entry for line in lines if (entry := line.partition("#")[0].strip().lower())]
    return entries


def listed(entries: Sequence[str], patterns: Sequence[str]) -> frozenset[str]:
    """The entries given in the spec and those of its files, in lower case."""
    return frozenset([*(entry.lower() for entry in entries), *read_word_lists(patterns)])
