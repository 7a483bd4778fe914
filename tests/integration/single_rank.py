"""A process group of one rank, for tests that run a stage in their own process (`run_in_process`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from training.engine.deepspeed_engine import load_deepspeed


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group that ends with the module that imports this, so that other tests can make theirs."""
    if dist.is_initialized():  # a test of another module left one
        _destroy()
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    _destroy()


def _destroy() -> None:
    dist.destroy_process_group()
    load_deepspeed().utils.groups._WORLD_GROUP = None  # DeepSpeed would go on using the group that is gone
