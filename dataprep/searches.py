"""The searches of deduplication: which rows are brought together by which keys, and how buckets become a forest.

Exact texts, equal URLs, near duplicates, in this order, which is that of the reasons. The near search is cut into
passes of some bands each, so that a corpus of any size is shuffled in pieces of bounded size and a killed stage loses
one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from cluster.contracts.errors import InputError
from dataprep.config import DedupeConfig, FuzzySettings
from dataprep.corpora import Piece
from dataprep.documents import read_columns, read_signatures
from dataprep.removals import EXACT, NEAR, URL

_ROWS_PER_PASS = 500_000_000  # keyed rows of one shuffle: 8 GB, 20 with sketches

# Kernels are imported in the functions that tasks run, after `prepare_worker` has said where they are kept compiled.


@dataclass(frozen=True)
class Search:
    """One pass."""

    name: str  # of its committed unit
    reason: str
    keyed_rows: Callable[[Piece], pa.Table]
    keys: tuple[str, ...]
    forest: Callable[[pa.Table], pa.Table]  # of a partition: edges as columns a, b
    rows_per_document: int


def searches(config: DedupeConfig, *, num_documents: int, num_hashes: int) -> list[Search]:
    """The passes over `num_documents` documents whose signatures have at least `num_hashes` hashes."""
    found = []
    if config.exact:
        found.append(Search("exact", EXACT, _text_rows, ("high", "low"), _equal_forest, 1))
    if config.url:
        found.append(Search("url", URL, _url_rows, ("high", "low"), _equal_forest, 1))
    if config.fuzzy is not None:
        bands, rows = bands_and_rows(config.fuzzy, num_hashes)
        per_pass = max(1, min(bands, _ROWS_PER_PASS // max(1, num_documents)))
        for first in range(0, bands, per_pass):
            last = min(first + per_pass, bands)
            make = partial(
                _band_rows, bands=bands, rows=rows, chosen=slice(first, last), sketch=config.fuzzy.verify is not None
            )
            forest = partial(_band_forest, similarity=config.fuzzy.verify, num_hashes=bands * rows)
            found.append(Search(f"near-{first:04d}-{last - 1:04d}", NEAR, make, ("key",), forest, last - first))
    return found


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


def signatures_of(piece: Piece) -> np.ndarray:
    """[D, H] the MinHash signatures of a piece."""
    column = read_signatures(piece.artifact, piece.shard, ["minhash"]).column("minhash").combine_chunks()
    signatures_DH: np.ndarray = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return signatures_DH


def sketch_columns(sketches_DW: np.ndarray) -> dict[str, np.ndarray]:
    """The words of sketches as columns of a table."""
    return {f"sketch{word}": sketches_DW[:, word] for word in range(sketches_DW.shape[1])}


def sketches_in(table: pa.Table) -> np.ndarray:
    """[N, W] the inverse of `sketch_columns`."""
    names = sorted(
        (n for n in table.column_names if n.startswith("sketch")), key=lambda n: int(n.removeprefix("sketch"))
    )
    return np.stack([table.column(name).to_numpy() for name in names], axis=1)


def _text_rows(piece: Piece) -> pa.Table:
    hashes = read_signatures(piece.artifact, piece.shard, ["hash_high", "hash_low"])
    members = pa.array(np.arange(piece.first, piece.first + hashes.num_rows))
    return hashes.rename_columns(["high", "low"]).append_column("member", members)


def _url_rows(piece: Piece) -> pa.Table:
    from dataprep.url_key import url_hashes

    urls = read_columns(piece.artifact, piece.shard, ["url"]).column("url").to_pylist()
    high, low, known = url_hashes(urls)
    members = piece.first + np.flatnonzero(known)
    return pa.table({"high": high[known], "low": low[known], "member": members})


def _equal_forest(partition: pa.Table) -> pa.Table:
    from dataprep.buckets import equal_edges
    from dataprep.components import spanning_forest

    edges = equal_edges(*(partition.column(name).to_numpy() for name in ("high", "low", "member")))
    return _edge_table(spanning_forest(edges))


def _band_rows(piece: Piece, *, bands: int, rows: int, chosen: slice, sketch: bool) -> pa.Table:
    from dataprep.minhash import NO_BAND, band_hashes
    from dataprep.sketches import sketches

    signatures_DH = signatures_of(piece)
    keys_DB = band_hashes(signatures_DH, bands=bands, rows=rows)[:, chosen]
    usable = (keys_DB != NO_BAND).reshape(-1)
    documents = np.repeat(np.arange(len(keys_DB)), keys_DB.shape[1])[usable]
    columns = {"key": keys_DB.reshape(-1)[usable], "member": piece.first + documents}
    if sketch:
        columns |= sketch_columns(sketches(signatures_DH[:, : bands * rows])[documents])
    return pa.table(columns)


def _band_forest(partition: pa.Table, *, similarity: float | None, num_hashes: int) -> pa.Table:
    from dataprep.buckets import bucket_edges, checked_edges
    from dataprep.components import spanning_forest
    from dataprep.sketches import most_differing

    keys, members = (partition.column(name).to_numpy() for name in ("key", "member"))
    if similarity is None or not len(keys):
        return _edge_table(spanning_forest(bucket_edges(keys, members)))
    most = most_differing(similarity, num_hashes)
    return _edge_table(spanning_forest(checked_edges(keys, members, sketches_in(partition), most_differing=most)))


def _edge_table(edges: np.ndarray) -> pa.Table:
    return pa.table({"a": edges[:, 0], "b": edges[:, 1]})
