"""The clusters of duplicates as tables to look at (`CLUSTER_SCHEMA`): who stays, why the others go, how alike they are.

A task for each pack of shards writes the sketches of its members of clusters, keyed by cluster; a task for each file of
clusters brings them together (`keyed_shuffle.py`) and compares every member with its survivor.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.artifacts import StageContext
from cluster.contracts.commit import WrittenFile, commit_part, committed_parts, remove_part, sweep
from dataprep.dedupe.config import DedupeConfig
from dataprep.dedupe.corpora import Corpora, ShardSlice
from dataprep.dedupe.keyed_shuffle import KeyedRows, read_cell, write_cells
from dataprep.dedupe.match_keys import signatures_of
from dataprep.dedupe.removals import Removals
from dataprep.documents import CLUSTER_SCHEMA, write_table
from dataprep.ray_tasks import AlreadyDone, run_shard_tasks

_MEMBERS_PER_FILE = 1_000_000  # about, since a cluster is never parted
_DOCUMENTS_PER_PACK = 500_000
_BLOCKS = 1 << 16  # of clusters, by their survivors' indices; files are cut between blocks
_WRITER_THREADS = 16
_SURVIVOR = -1  # the reason number of those that stay


def write_clusters(
    output: str, work: str, removals: Removals, *, num_hashes: int, config: DedupeConfig, context: StageContext
) -> list[WrittenFile]:
    """Write the files of clusters, `clusters-*.parquet`. Members are committed in `work` on the way, then removed."""
    packs, counts = _write_members(work, removals)
    if not packs:
        return []
    first_clusters_R = _cut(counts, -(-removals.corpora.num_documents // _BLOCKS))
    names = [f"clusters-{number:06d}" for number in range(len(first_clusters_R))]
    written = committed_parts(output)
    missing = [(cell, name) for cell, name in enumerate(names) if name not in written]
    if missing:
        done = committed_parts(work)
        run_tasks = partial(
            run_shard_tasks, workers=config.workers, max_workers=config.max_workers, progress=context.progress
        )
        run_tasks(
            partial(_write_keys, work=work, first_clusters_R=first_clusters_R, num_hashes=num_hashes),
            [
                {
                    "uri": f"{key} (from {pack[0].shard.uri})",
                    "key": key,
                    "slices": [asdict(shard_slice) for shard_slice in pack],
                }
                for key, pack in packs.items()
                if key not in done
            ],
            already_done=AlreadyDone(sum(key in done for key in packs), 0),
            unit="packs",
        )
        done = committed_parts(work)
        uris = [storage.join(work, done[key].files["keys"].name) for key in packs]
        run_tasks(
            partial(
                _write_clusters, uris=uris, output=output, corpora=removals.corpora, reasons=list(removals.labels),
                num_hashes=num_hashes,
            ),
            [{"uri": name, "key": name, "cell": cell} for cell, name in missing],
            already_done=AlreadyDone(len(names) - len(missing), 0),
            unit="files of clusters",
        )  # fmt: skip
        written = committed_parts(output)
    for key in packs:
        remove_part(work, key)
        storage.delete_file(storage.join(work, f"{key}.parquet"))
    sweep(work)
    return [written[name].files["clusters"] for name in names]


def _write_members(work: str, removals: Removals) -> tuple[dict[str, list[ShardSlice]], npt.NDArray[np.int64]]:
    """Write down each pack's members of clusters; returns the packs with any, by name, and how many each block has."""
    survivors_N = removals.survivors_N
    stays_N = np.zeros(len(survivors_N), bool)
    stays_N[survivors_N[survivors_N != np.arange(len(survivors_N), dtype=survivors_N.dtype)]] = True
    block_clusters = -(-len(survivors_N) // _BLOCKS)
    packs: dict[str, list[ShardSlice]] = {}
    counts = np.zeros(_BLOCKS, np.int64)

    def write(pack: list[ShardSlice]) -> npt.NDArray[np.int64]:
        table = removals.members(pack[0].first, pack[-1].end, stays_N)
        if table.num_rows:
            write_table(work, f"{_name(pack)}.parquet", table)
        return np.bincount(table.column("cluster").to_numpy() // block_clusters, minlength=_BLOCKS)

    with ThreadPoolExecutor(_WRITER_THREADS) as pool:
        all_packs = removals.corpora.packs(most_documents=_DOCUMENTS_PER_PACK)
        for pack, found in zip(all_packs, pool.map(write, all_packs), strict=True):
            counts += found
            if found.any():
                packs[_name(pack)] = pack
    return packs, counts


def _name(pack: Sequence[ShardSlice]) -> str:
    return f"members-{pack[0].first:012d}-{pack[-1].end:012d}"


def _cut(counts: npt.NDArray[np.int64], block_clusters: int) -> npt.NDArray[np.uint64]:
    """[R] the first cluster of each file, so that files have about `_MEMBERS_PER_FILE` rows and none is empty."""
    ends = np.cumsum(counts)
    file_of_block = (ends - 1) // _MEMBERS_PER_FILE
    filled = np.flatnonzero(counts)
    firsts = filled[np.concatenate([[True], np.diff(file_of_block[filled]) > 0])]
    return firsts.astype(np.uint64) * np.uint64(block_clusters)


def _write_keys(row: dict[str, Any], *, work: str, first_clusters_R: npt.NDArray[np.uint64], num_hashes: int) -> int:
    from dataprep.signatures.bit_sketch import sketches

    found = storage.read_table(storage.join(work, f"{row['key']}.parquet"))
    members, reasons = found.column("member").to_numpy(), found.column("reason").to_numpy()
    words = []
    for first, signatures_DH in (
        found for shard_slice in row["slices"] for found in signatures_of(ShardSlice.from_row(shard_slice))
    ):
        begin, end = np.searchsorted(members, (first, first + len(signatures_DH)))
        if begin < end:
            words.append(sketches(signatures_DH[members[begin:end] - first, :num_hashes]))
    words_MW = np.column_stack([reasons.astype(np.uint64), np.concatenate(words)])
    clusters = found.column("cluster").to_numpy().astype(np.uint64).reshape(-1, 1)
    with commit_part(work, row["key"]) as part, part.open("keys", "arrow") as sink:
        write_cells(sink, KeyedRows(clusters, members, words_MW), first_clusters_R)
    return len(members)


def _write_clusters(
    row: dict[str, Any],
    *,
    uris: Sequence[str],
    output: str,
    corpora: Corpora,
    reasons: Sequence[str],
    num_hashes: int,
) -> int:
    from dataprep.signatures.bit_sketch import similarities

    rows = read_cell(uris, row["cell"])
    order = np.lexsort((rows.members_N, rows.keys_NK[:, 0]))
    clusters, members = rows.keys_NK[order, 0].astype(np.int64), rows.members_N[order]
    numbers, sketches_MW = rows.words_NW[order, 0].astype(np.int64), np.ascontiguousarray(rows.words_NW[order, 1:])
    stays = members == clusters
    survivor_of = np.flatnonzero(stays)[np.searchsorted(clusters[stays], clusters)]
    corpus, identifiers = corpora.names(members)
    names = np.array([*reasons, None], object)  # the last, at -1, for those that stay
    table = pa.table(
        {
            "cluster": clusters,
            "corpus": corpus,
            "doc_id": identifiers,
            "survives": stays,
            "reason": pa.array(names[np.where(stays, _SURVIVOR, numbers)], pa.string()),
            "similarity": similarities(sketches_MW, sketches_MW[survivor_of], num_hashes),
        },
        schema=CLUSTER_SCHEMA,
    )
    with commit_part(output, row["key"]) as part:
        with part.open("clusters", "parquet") as sink:
            pq.write_table(table, sink, compression="zstd")
        part.metrics["rows"] = table.num_rows
    return table.num_rows
