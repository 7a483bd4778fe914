"""Functions that a test's child process runs; it imports them by name."""

import ctypes
import os
import time
from pathlib import Path


def work(item: str) -> str:
    """What `item` says: an echo, or one of the ways in which native code goes wrong."""
    kind, _, argument = item.partition(":")
    if kind == "spin":
        while True:
            sum(range(1000))
    if kind == "sleep":
        time.sleep(1000)
    if kind == "eat":
        return str(len([bytearray(16 << 20) for _ in range(int(argument))]))
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "raise":
        raise ValueError("odd item")
    if kind == "leak":
        _LEAKED.append(bytearray(int(argument) << 20))
    if kind == "pid":
        return str(os.getpid())
    if kind == "once":  # kills its process the first time
        if not Path(argument).exists():
            Path(argument).touch()
            os.kill(os.getpid(), 9)
        return "done"
    return item.upper()


_LEAKED: list[bytearray] = []


def unable(item: str) -> str:
    """Fails at once, as a missing library does."""
    raise ImportError(f"no library for {item}")


def end_process_at_other_footers(footer: bytes) -> None:
    """Does with all but the first, the one to warm up with, what Arrow does with some damaged ones."""
    _SEEN.append(footer)
    if len(_SEEN) > 1:
        os.abort()


_SEEN: list[bytes] = []
