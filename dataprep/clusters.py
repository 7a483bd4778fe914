"""The clusters of duplicates as a table to look at: who is in which, who stays, why the others go, how alike they are.

Members are brought together by cluster, each with its sketch, and compared with the cluster's survivor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts.commit import WrittenFile, commit_part
from dataprep.config import DedupeConfig
from dataprep.corpora import Corpora, Piece
from dataprep.documents import CLUSTER_SCHEMA, write_table
from dataprep.removals import Removals
from dataprep.searches import signatures_of, sketch_columns, sketches_in
from dataprep.shuffle import shuffled

_SURVIVOR = -1  # the reason number of those that stay


def write_clusters(
    output: str, work: str, removals: Removals, *, num_hashes: int, config: DedupeConfig
) -> list[WrittenFile]:
    """Write `clusters-*.parquet` (`CLUSTER_SCHEMA`, clusters in one piece); `work` takes the members of each part."""
    stays_N = np.zeros(removals.corpora.num_documents, bool)
    pieces: list[Piece] = []
    members: dict[int, str] = {}
    num_members = 0
    indices = np.arange(len(stays_N), dtype=removals.survivors_N.dtype)
    stays_N[removals.survivors_N[removals.survivors_N != indices]] = True
    for piece in removals.corpora.pieces:
        table = removals.members(piece, stays_N)
        if table.num_rows:
            pieces.append(piece)
            members[piece.first] = f"members-{piece.first:012d}.parquet"
            write_table(work, members[piece.first], table)
            num_members += table.num_rows
    if not pieces:
        return []
    written = shuffled(
        pieces,
        partial(_member_rows, work=work, members=members, num_hashes=num_hashes),
        partial(
            _write_partition,
            output=output,
            corpora=removals.corpora,
            reasons=list(removals.labels),
            num_hashes=num_hashes,
        ),
        keys=["cluster"],
        num_rows=num_members,
        config=config,
    )
    rows = [row for table in written for row in table.to_pylist()]
    return sorted((WrittenFile(**row) for row in rows), key=lambda file: file.name.split(".")[0])


def _member_rows(piece: Piece, *, work: str, members: dict[int, str], num_hashes: int) -> pa.Table:
    from cluster.contracts import storage
    from dataprep.sketches import sketches

    filesystem, path = storage.locate(storage.join(work, members[piece.first]))
    found = pq.read_table(path, filesystem=filesystem)
    rows = found.column("row").to_numpy()
    columns = {"cluster": found.column("cluster"), "member": piece.first + rows, "reason": found.column("reason")}
    return pa.table(columns | sketch_columns(sketches(signatures_of(piece)[rows, :num_hashes])))


def _write_partition(
    partition: pa.Table, *, output: str, corpora: Corpora, reasons: Sequence[str], num_hashes: int
) -> pa.Table:
    """Commit a partition's clusters; returns its file as a table of one row."""
    from dataprep.sketches import similarities

    if not partition.num_rows:
        return pa.table(
            {"name": pa.array([], pa.string()), "size": pa.array([], pa.int64()), "sha256": pa.array([], pa.string())}
        )
    partition = partition.sort_by([("cluster", "ascending"), ("member", "ascending")])
    clusters, members, numbers = (partition.column(n).to_numpy() for n in ("cluster", "member", "reason"))
    sketches_MW = sketches_in(partition)
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
    with commit_part(output, f"clusters-{clusters[0]:012d}") as part:
        with part.open("clusters", "parquet") as sink:
            pq.write_table(table, sink, compression="zstd")
        part.metrics["rows"] = table.num_rows
    file = part.files["clusters"]
    return pa.table({"name": [file.name], "size": [file.size], "sha256": [file.sha256]})
