"""The dedupe stage: exact and near duplicates over all parts, as a removal list per part; nothing is rewritten.

Only (key, document index) rows are shuffled, by Ray Data's hash shuffle: first the documents' exact hashes, then
the bands of their signatures. Each partition turns its buckets into edges and those into a spanning forest; one
union-find over dense indices joins the forests as they arrive, in whatever order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError, StageFailed
from dataprep.config import DedupeConfig, FuzzySettings, MinHashSettings
from dataprep.documents import (
    Shard,
    first_indices,
    read_shard_table,
    read_signatures,
    rebase,
    write_shard_table,
    write_table,
)
from dataprep.over_shards import configure_ray_data, keep_compiled_kernels, own_errors, prepare_worker, remote_options
from dataprep.removals import Removals

_ROWS_PER_PARTITION = 4_000_000  # keyed rows of a task: 64 MB, and a few times that while they are sorted
_WRITER_THREADS = 16


@dataclass(frozen=True)
class Search:
    """One pass: which rows are shuffled, by what, and how a partition of them becomes edges."""

    keyed_rows: Callable[[str, Shard, int], pa.Table]  # (artifact, shard, index of its first document)
    keys: list[str]
    edges: Callable[[pa.Table], npt.NDArray[np.int64]]
    rows_per_document: int


def run(config: DedupeConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Find the duplicates in a clean artifact; writes its shard table again, with the removals."""
    keep_compiled_kernels()
    from dataprep.components import UnionFind

    clean = inputs["parts"]
    shards = [rebase(shard, old=clean.uri, new=output) for shard in read_shard_table(clean.uri)]
    searches, figures = _searches(config, clean)
    first = first_indices(shards)
    num_documents = int(first[-1])
    if num_documents == 0:
        raise InputError(f"{clean.uri} has no documents; see its manifest for what was dropped and why")

    partitions = [-(-num_documents * search.rows_per_document // _ROWS_PER_PARTITION) for search in searches]
    done = 0
    groups = UnionFind(num_documents)
    survivors = exact_survivors = np.arange(num_documents)
    for search, num_partitions in zip(searches, partitions, strict=True):
        with own_errors():
            for edges in _edges(search, output, shards, first, num_partitions, config):
                groups.add(edges)
                done += 1
                context.progress.update(done, sum(partitions), "partitions", documents=num_documents)
        survivors = groups.labels().astype(np.int64)
        if search is EXACT_SEARCH:
            exact_survivors = survivors
    removals = Removals(survivors, exact_survivors)
    shards, files = _write_removals(output, shards, removals, first)
    return StageResult({**_metrics(removals, shards), **figures}, [write_shard_table(output, shards), *files])


def bands_and_rows(fuzzy: FuzzySettings, num_hashes: int) -> tuple[int, int]:
    """How signatures of `num_hashes` are cut. Raises `InputError` where they are too short."""
    if fuzzy.similarity is not None:
        from dataprep.minhash import optimal_bands

        return optimal_bands(fuzzy.similarity, num_hashes)
    if fuzzy.bands * fuzzy.rows > num_hashes:
        raise InputError(
            f"fuzzy: {fuzzy.bands} bands x {fuzzy.rows} rows need {fuzzy.bands * fuzzy.rows} hashes; the clean stage"
            f" made {num_hashes}. Lower bands or rows, or raise the clean stage's minhash.num_hashes"
        )
    return fuzzy.bands, fuzzy.rows


def _searches(config: DedupeConfig, clean: Artifact) -> tuple[list[Search], dict[str, int]]:
    searches, figures = [], {}
    if config.exact:
        searches.append(EXACT_SEARCH)
    if config.fuzzy is not None:
        signatures = MinHashSettings.model_validate(clean.manifest.config["minhash"])
        bands, rows = bands_and_rows(config.fuzzy, signatures.num_hashes)
        figures = {"bands": bands, "rows": rows}
        searches.append(Search(partial(_band_rows, bands=bands, rows=rows), ["key"], _band_edges, bands))
    return searches, figures


def _edges(
    search: Search,
    artifact: str,
    shards: Sequence[Shard],
    first: npt.NDArray[np.int64],
    num_partitions: int,
    config: DedupeConfig,
) -> Iterator[npt.NDArray[np.int64]]:
    """The spanning forest [E, 2] of each partition, as they get ready."""
    import ray.data

    configure_ray_data()
    options = remote_options(config.workers)
    rows = [{"shard": json.dumps(asdict(shard)), "first": int(first[shard.number])} for shard in shards]
    threads = config.workers.num_threads
    forests = (
        ray.data.from_items(rows, override_num_blocks=min(len(rows), max(num_partitions, _cluster_tasks(config))))
        .map_batches(
            partial(_keyed_rows, search=search, artifact=artifact, num_threads=threads),
            batch_size=None,
            batch_format="pyarrow",
            concurrency=config.max_workers,
            **options,
        )
        .repartition(num_partitions, keys=search.keys)
        .map_batches(
            partial(_forest, search=search, num_threads=threads),
            batch_size=None,
            batch_format="pyarrow",
            concurrency=config.max_workers,
            **options,
        )
    )
    for batch in forests.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield np.stack([batch.column("a").to_numpy(), batch.column("b").to_numpy()], axis=1)


def _cluster_tasks(config: DedupeConfig) -> int:
    """How many tasks the cluster runs at once."""
    import ray

    fitting = max(1, int(ray.cluster_resources().get("CPU", 1) / config.workers.cpus))
    return fitting if config.max_workers is None else min(fitting, config.max_workers)


def _keyed_rows(batch: pa.Table, *, search: Search, artifact: str, num_threads: int) -> Iterator[pa.Table]:
    prepare_worker(num_threads)
    for row in batch.to_pylist():
        yield search.keyed_rows(artifact, Shard.from_row(json.loads(row["shard"])), row["first"])


def _forest(partition: pa.Table, *, search: Search, num_threads: int) -> pa.Table:
    prepare_worker(num_threads)
    from dataprep.components import spanning_forest

    edges = spanning_forest(search.edges(partition))
    return pa.table({"a": edges[:, 0], "b": edges[:, 1]})


def _exact_rows(artifact: str, shard: Shard, first: int) -> pa.Table:
    hashes = read_signatures(artifact, shard, ["hash_high", "hash_low"])
    return hashes.append_column("member", pa.array(np.arange(first, first + hashes.num_rows)))


def _exact_edges(partition: pa.Table) -> npt.NDArray[np.int64]:
    from dataprep.buckets import equal_edges

    return equal_edges(*(partition.column(name).to_numpy() for name in ("hash_high", "hash_low", "member")))


EXACT_SEARCH = Search(_exact_rows, ["hash_high", "hash_low"], _exact_edges, 1)


def _band_rows(artifact: str, shard: Shard, first: int, *, bands: int, rows: int) -> pa.Table:
    from dataprep.minhash import NO_BAND, band_hashes

    column = read_signatures(artifact, shard, ["minhash"]).column("minhash").combine_chunks()
    signatures_DH = column.flatten().to_numpy().reshape(len(column), -1)
    keys = band_hashes(signatures_DH, bands=bands, rows=rows).reshape(-1)
    members = np.repeat(np.arange(first, first + len(column)), bands)
    return pa.table({"key": keys[keys != NO_BAND], "member": members[keys != NO_BAND]})


def _band_edges(partition: pa.Table) -> npt.NDArray[np.int64]:
    from dataprep.buckets import bucket_edges

    return bucket_edges(partition.column("key").to_numpy(), partition.column("member").to_numpy())


def _write_removals(
    output: str, shards: Sequence[Shard], removals: Removals, first: npt.NDArray[np.int64]
) -> tuple[list[Shard], list[WrittenFile]]:
    def write(shard: Shard) -> Shard:
        table = removals.table(first, shard.number)
        if table.num_rows == 0:
            return shard
        file = write_table(output, f"removals-{shard.number:06d}.parquet", table)
        return replace(shard, removals=file, num_removed=table.num_rows)

    with ThreadPoolExecutor(_WRITER_THREADS) as pool:
        written = list(pool.map(write, shards))
    return written, [shard.removals for shard in written if shard.removals is not None]


def _metrics(removals: Removals, shards: Sequence[Shard]) -> dict[str, Any]:
    documents, removed = len(removals.survivors_N), removals.counts()
    kept = sum(shard.num_documents - shard.num_removed for shard in shards)
    if documents != kept + sum(removed.values()):
        raise StageFailed(f"dedupe: {documents} documents, but {kept} kept and {removed} removed; this is a bug")
    sizes = removals.group_sizes()
    return {
        "documents": documents,
        "kept": kept,
        "removed": removed,
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max(initial=1)),
    }
