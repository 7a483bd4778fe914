"""One pass of deduplication on Ray: rows made from pieces, brought together by key, each partition reduced.

Ray Data's hash shuffle is made of tasks and survives a killed worker; what a partition holds follows from its keys and
the number of partitions alone, so results do not depend on how many workers there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

import pyarrow as pa

from dataprep.config import DedupeConfig
from dataprep.corpora import Piece
from dataprep.documents import Shard
from dataprep.over_shards import configure_ray_data, own_errors, prepare_worker, remote_options

ROWS_PER_PARTITION = 1_000_000  # of a task: 40 MB with sketches, and as much again while they are sorted


def shuffled(
    pieces: Sequence[Piece],
    keyed_rows: Callable[[Piece], pa.Table],
    reduce: Callable[[pa.Table], pa.Table],
    *,
    keys: Sequence[str],
    num_rows: int,
    config: DedupeConfig,
) -> Iterator[pa.Table]:
    """`reduce` of each partition of the rows that `keyed_rows` makes, in whatever order partitions get ready.

    `num_rows`: how many rows to expect at most; the number of partitions follows from it. Both functions are pickled.
    One partition needs no shuffle: a single task makes all its rows.
    """
    num_partitions = max(1, -(-num_rows // ROWS_PER_PARTITION))
    if num_partitions == 1:
        yield _in_one_task(pieces, keyed_rows, reduce, config)
        return
    import ray.data

    configure_ray_data()
    options = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "concurrency": config.max_workers,
        **remote_options(config.workers),
    }
    rows = [{"piece": json.dumps(asdict(piece))} for piece in pieces]
    threads = config.workers.num_threads
    reduced = (
        ray.data.from_items(rows, override_num_blocks=min(len(rows), max(num_partitions, _tasks_at_once(config))))
        .map_batches(partial(_make_rows, keyed_rows=keyed_rows, num_threads=threads), **options)
        .repartition(num_partitions, keys=list(keys))
        .map_batches(partial(_reduce, reduce=reduce, num_threads=threads), **options)
    )
    with own_errors():
        yield from reduced.iter_batches(batch_size=None, batch_format="pyarrow")


def _in_one_task(
    pieces: Sequence[Piece],
    keyed_rows: Callable[[Piece], pa.Table],
    reduce: Callable[[pa.Table], pa.Table],
    config: DedupeConfig,
) -> pa.Table:
    import ray

    threads = config.workers.num_threads

    def task() -> pa.Table:
        prepare_worker(threads)
        return reduce(pa.concat_tables([keyed_rows(piece) for piece in pieces]).combine_chunks())

    with own_errors():
        found: pa.Table = ray.get(ray.remote(task).options(max_retries=2, **remote_options(config.workers)).remote())
        return found


def _tasks_at_once(config: DedupeConfig) -> int:
    """How many tasks the cluster runs at once."""
    import ray

    fitting = max(1, int(ray.cluster_resources().get("CPU", 1) / config.workers.cpus))
    return fitting if config.max_workers is None else min(fitting, config.max_workers)


def _make_rows(batch: pa.Table, *, keyed_rows: Callable[[Piece], pa.Table], num_threads: int) -> Iterator[pa.Table]:
    prepare_worker(num_threads)
    for row in batch.to_pylist():
        piece = json.loads(row["piece"])
        yield keyed_rows(Piece(**{**piece, "shard": Shard.from_row(piece["shard"])}))


def _reduce(partition: pa.Table, *, reduce: Callable[[pa.Table], pa.Table], num_threads: int) -> pa.Table:
    prepare_worker(num_threads)
    return reduce(partition)
