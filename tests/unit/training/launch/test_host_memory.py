"""Freed memory of a rank, in a process of its own, since the setting can't be taken back."""

import platform
import subprocess
import sys
from textwrap import dedent

import pytest

PROGRAM = dedent(
    """
    import resource, sys
    import torch
    from training.launch.host_memory import keep_freed_memory

    if sys.argv[1] == "kept":
        assert keep_freed_memory()
    torch.set_num_threads(1)
    for number in range(30):
        if number == 10:  # by now blocks of these sizes are there
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 << 20), torch.ones(1 << 20)  # 64 and 4 MiB
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
)


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_kept_memory_is_not_touched_for_the_first_time_again() -> None:
    assert page_faults("kept") < page_faults("as it is") / 5
