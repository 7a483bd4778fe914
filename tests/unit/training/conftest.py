"""A process group of one rank, for tests that build DeepSpeed engines in the test's own process."""

import os
from collections.abc import Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(scope="session")
def one_rank() -> Iterator[None]:
    """One for all tests, as DeepSpeed keeps hold of the first it sees; `run_in_process` uses it where it finds it."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
