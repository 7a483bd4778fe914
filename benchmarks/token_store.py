"""What opening a 100 GB token store of 50 million documents costs a rank: seconds, and megabytes.

The store is real but for its tokens, which are holes in sparse files: shards as `write_token_shard` writes them,
with genuine document boundaries (log-normal lengths, a thousand tokens on average) and an index. A process of its own
opens it as a pre-training rank does, in shuffled order, and reads batches from all over it. Memory is its resident
set, against that of the same process before it opens anything.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, print_figures
from cluster.contracts.tokens import ShardEntry, write_token_index, write_token_shard

ASKED_S, ASKED_MB = 1.0, 200.0
SEQUENCE_LENGTH, BATCH_SIZE, NUM_BATCHES = 2048, 16, 250
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoreSize:
    """How much a store holds."""

    num_documents: int = 50_000_000
    num_tokens: int = 50_000_000_000  # two bytes each
    num_shards: int = 400
    rows_per_shard: int = 4  # of the index: languages and classes of lengths


@dataclass(frozen=True)
class Cost:
    """What one process paid."""

    seconds: float  # to open the store, its first batch included
    cpu_seconds: float
    private_mb: float  # memory of its own, after the batches
    file_mb: float  # pages of files that it has mapped, which it shares and the kernel may take back
    batch_ms: float  # of each of the batches after the first


class SparseFile(io.FileIO):
    """A file in which zeros take no room: writing the array `zeros`, or pieces that are all zero, leaves a hole."""

    def __init__(self, path: Path, zeros: npt.NDArray[Any]) -> None:
        super().__init__(path, "wb")
        self._zeros = zeros

    def write(self, data: Any) -> int:
        content_B = np.frombuffer(data, np.uint8)
        if content_B.ctypes.data == self._zeros.ctypes.data and len(content_B) <= self._zeros.nbytes:
            self.seek(len(content_B), io.SEEK_CUR)  # and not one page of it was looked at
            return len(content_B)
        for start in range(0, len(content_B), _CHUNK):
            piece_B = content_B[start : start + _CHUNK]
            if piece_B.any():
                super().write(piece_B.data)
            else:
                self.seek(len(piece_B), io.SEEK_CUR)
        return len(content_B)

    def close(self) -> None:
        if not self.closed:
            self.truncate(self.tell())
        super().close()


def document_lengths(num_documents: int, num_tokens: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Log-normal lengths (a standard deviation of 1 of the logarithm) that sum to `num_tokens`."""
    lengths = np.random.default_rng(seed).lognormal(0.0, 1.0, num_documents)
    ends = np.floor(np.cumsum(lengths) * (num_tokens / lengths.sum()) + 0.5).astype(np.int64)
    ends[-1] = num_tokens
    return np.diff(ends, prepend=0)


def make_store(directory: Path, size: StoreSize) -> None:
    """Write the store's shards and index."""
    documents, tokens = size.num_documents // size.num_shards, size.num_tokens // size.num_shards
    zeros = np.zeros(tokens, np.uint16)  # never touched, so it takes no memory
    sources = ["web"] * documents
    entries = []
    for number in range(size.num_shards):
        offsets = np.concatenate([[0], np.cumsum(document_lengths(documents, tokens, seed=number))]).astype(np.int64)
        path = directory / f"shard-{number:05d}.arrow"
        with SparseFile(path, zeros) as sink:
            write_token_shard(cast(BinaryIO, sink), zeros, offsets, np.zeros(documents, np.int64), sources)
        firsts = np.linspace(0, documents, size.rows_per_shard + 1).astype(int).tolist()
        entries += [
            ShardEntry(
                path.name, path.stat().st_size, "", last - first, int(offsets[last] - offsets[first]),
                first_document=first, min_length=row,
            )
            for row, (first, last) in enumerate(pairwise(firsts))
        ]  # fmt: skip
    write_token_index(str(directory), entries)


def opening_cost(
    directory: Path, *, attention: str = "across_documents", num_batches: int = NUM_BATCHES, **settings: Any
) -> Cost:
    """Measured in a process of its own. `settings`: further ones of the pretrain stage."""
    settings = {"attention": attention, "sequence_length": SEQUENCE_LENGTH, **settings}
    command = [sys.executable, "-m", "benchmarks.token_store", str(directory), str(num_batches), json.dumps(settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _open_and_read(directory: str, num_batches: int, settings: dict[str, Any]) -> Cost:
    """What the process of its own does: as a rank opens its samplers, and trains."""
    from training.pretrain.config import PretrainConfig
    from training.pretrain.job import PretrainJob
    from training.pretrain.open_data import open_training

    config = PretrainConfig(tokens=directory, tokenizer="-", model="tiny", steps=1, **settings)
    job = PretrainJob(config, directory, "-", "-", None, directory, seed=1)
    before = _memory_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    sampler = open_training(job)
    numbers = np.arange(BATCH_SIZE)
    sampler.batch(numbers)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak = np.array(_memory_mb())
    started = time.perf_counter()
    for batch in range(1, num_batches + 1):
        sampler.batch(numbers + batch * BATCH_SIZE)
        if batch % 10 == 0:
            peak = np.maximum(peak, _memory_mb())
    batch_ms = (time.perf_counter() - started) * 1e3 / max(1, num_batches)
    private_mb, file_mb = (peak - before).tolist()
    return Cost(seconds, cpu_seconds, private_mb, file_mb, batch_ms)


def _memory_mb() -> tuple[float, float]:
    """(memory of this process's own, resident pages of mapped files), in MB; together the resident set."""
    figures = psutil.Process().memory_info()
    return (figures.rss - figures.shared) / 1e6, figures.shared / 1e6


def measure(size: StoreSize | None = None) -> list[Figure]:
    """Build a store, open it in several ways, print a table; the worst of each figure."""
    size = size or StoreSize()
    table = Table("attention", "seconds", "CPU-s", "private MB", "file pages MB", "ms a batch", box=None)
    costs = []
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        make_store(Path(directory), size)
        built_s = time.perf_counter() - started
        for attention in ("across_documents", "within_documents"):
            cost = opening_cost(Path(directory), attention=attention)
            costs.append(cost)
            figures = (cost.seconds, cost.cpu_seconds, cost.private_mb, cost.file_mb, cost.batch_ms)
            table.add_row(attention, *(f"{figure:.2f}" for figure in figures))
    console = Console()
    console.print(
        f"{size.num_tokens:,} tokens of {size.num_documents:,} documents in {size.num_shards} shards, "
        f"{size.num_shards * size.rows_per_shard} rows of the index (built in {built_s:.0f} s); {NUM_BATCHES} batches "
        f"of {BATCH_SIZE} samples of {SEQUENCE_LENGTH} tokens, shuffled over the whole store"
    )
    console.print(table)
    seconds = max(cost.seconds for cost in costs)
    megabytes = max(cost.private_mb + cost.file_mb for cost in costs)
    return [
        Figure("7a", "opening a 100 GB token store", "s", seconds, ASKED_S, at_most=True, module="pretrain"),
        Figure("7b", "what it costs a rank", "MB", megabytes, ASKED_MB, at_most=True, module="pretrain"),
    ]


def main() -> None:
    """The benchmark, or with arguments the process that it measures."""
    if len(sys.argv) > 1:
        cost = _open_and_read(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
        print(json.dumps(vars(cost)))
        return
    print_figures(measure())


if __name__ == "__main__":
    main()
