"""Set before anything imports torch or numba: as many threads as the tests own, and no hub."""

import os
import signal

import pytest

from dataprep.kernel_cache import keep_compiled_kernels

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray makes its workers give way to everything else (15): beside a second test process they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")
# Numba's own cache, beside a kernel, would go on with what a function that it calls was before a change.
keep_compiled_kernels()

# Tests that a shell started in its background ignore Ctrl-C, and what they start would do so too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` runs two files at a time; the one that takes as long as all others together goes first.
FIRST = "test_whole_way.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, the others as they come."""
    items.sort(key=lambda item: item.path.name != FIRST)
