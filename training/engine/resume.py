"""Brings an engine to the newest checkpoint, whatever number of ranks wrote it.

Where the same number of ranks wrote it, every rank loads its own part. Where it was another number, it depends on the
ZeRO stage:

    0       rank 0 wrote everything, and every rank loads that
    1, 2    DeepSpeed's universal conversion, with the record that it misses put in
    3       DeepSpeed's universal conversion

The conversion is made once a machine, by the machine's first rank, from all ranks' files in its scratch directory. It
needs disk there for three times the checkpoint. Master weights and AdamW's moments arrive bit for bit. The steps after
it differ in the last digits from those of the old number of ranks, since gradients are summed in another order.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from training.checkpoint.store import Checkpoint, CheckpointStore
from training.engine.deepspeed_engine import convert_to_universal, load_engine, load_resized_engine
from training.launch.workers import Worker


def resume(
    engine: Any, store: CheckpointStore, worker: Worker, *, seed: int, at_most: int | None = None
) -> Checkpoint | None:
    """Load the newest checkpoint (up to step `at_most`) that is intact on all ranks; None where there is none.

    All ranks call it. `seed` is for the random state of ranks that the checkpoint knows nothing of.
    """
    found = fetch(store, worker, zero_stage=engine.zero_optimization_stage(), at_most=at_most)
    if found is not None:
        load(engine, found, worker, seed=seed)
    return found


def fetch(store: CheckpointStore, worker: Worker, *, zero_stage: int, at_most: int | None = None) -> Checkpoint | None:
    """Bring what this rank needs of the newest intact checkpoint to its scratch directory, for `load`.

    For loops that must know the step before they have an engine. All ranks call it.
    """

    def ranks_needed(checkpoint: Checkpoint) -> list[int]:
        if checkpoint.world_size == worker.world_size or zero_stage == 0:
            return [0, worker.rank]
        return list(range(checkpoint.world_size)) if worker.local_rank == 0 else []

    return store.restore(
        _target(worker),
        ranks=ranks_needed,
        at_most=at_most,
        share=worker.share,
        agree=worker.agree,
        note=worker.progress.note,
    )


def load(engine: Any, found: Checkpoint, worker: Worker, *, seed: int) -> None:
    """Bring the engine to the checkpoint that `fetch` found. All ranks call it; the fetched files are removed."""
    zero_stage, target = engine.zero_optimization_stage(), _target(worker)
    if found.world_size == worker.world_size:
        load_engine(engine, target)
    elif zero_stage == 0:
        load_resized_engine(engine, target, seed=seed + found.step)
    else:
        if worker.local_rank == 0:
            convert_to_universal(target, zero_stage=zero_stage)
        load_resized_engine(engine, _of_this_machine(target, worker), seed=seed + found.step)
        worker.barrier()  # nobody reads the first rank's files any longer
    shutil.rmtree(target, ignore_errors=True)
    resized = "" if found.world_size == worker.world_size else f", written by {found.world_size} workers"
    worker.progress.note(f"resuming from the checkpoint of step {found.step}{resized}")


def _target(worker: Worker) -> Path:
    return worker.scratch / "restored"


def _of_this_machine(target: Path, worker: Worker) -> Path:
    """The directory of this machine's first rank; returns when all ranks have made theirs.

    Ranks are numbered machine by machine, by Ray Train as by `torchrun`.
    """
    targets: list[str] = [""] * worker.world_size
    dist.all_gather_object(targets, str(target))
    return Path(targets[worker.rank - worker.local_rank])
