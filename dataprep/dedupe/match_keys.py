"""The searches of deduplication: which rows are brought together by which keys, and which of them are joined.

Exact texts, equal URLs, near duplicates, in this order, which is that of the reasons. Kernels are imported in the
functions that tasks run, after `prepare_worker` has said where they are kept compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.contracts.errors import InputError
from dataprep.dedupe.config import DedupeConfig, FuzzySettings
from dataprep.dedupe.corpora import OWN, Piece
from dataprep.dedupe.keyed_shuffle import KeyedRows
from dataprep.dedupe.removals import EXACT, NEAR, URL
from dataprep.documents import Shard, column_groups, removed_rows, signature_groups

_SKETCH_BITS = 64  # of a word


@dataclass(frozen=True)
class MatchRule:
    """One reason to remove a document. Picklable."""

    name: str
    reason: str
    num_keys: int  # of a document
    num_words: int  # that go with each key
    rows: Callable[[Piece], Iterator[KeyedRows]]  # some thousand documents at a time
    edges: Callable[[KeyedRows], npt.NDArray[np.int64]]  # [E, 2] of the rows that share their one key


def searches(config: DedupeConfig, *, num_hashes: int) -> list[MatchRule]:
    """The searches over documents whose signatures have at least `num_hashes` hashes."""
    found = []
    if config.exact:
        found.append(MatchRule("exact", EXACT, 1, 1, _text_rows, _equal_edges))
    if config.url:
        found.append(MatchRule("url", URL, 1, 1, _url_rows, _equal_edges))
    if config.fuzzy is not None:
        bands, rows = bands_and_rows(config.fuzzy, num_hashes)
        similarity = config.fuzzy.verify
        num_words = 0 if similarity is None else -(-bands * rows // _SKETCH_BITS)
        make = partial(_band_rows, bands=bands, rows=rows, sketch=similarity is not None)
        edges = partial(_band_edges, similarity=similarity, num_hashes=bands * rows)
        found.append(MatchRule("near", NEAR, bands, num_words, make, edges))
    return found


def keyed_rows(search: MatchRule, piece: Piece) -> Iterator[KeyedRows]:
    """The rows of a piece under a search's keys, without documents that an earlier deduplication removed.

    Those are in no corpus any longer: whoever lost to one of them would be lost altogether.
    """
    removed = None
    if piece.corpus != OWN and piece.shard.removals is not None:
        removed = removed_rows(piece.artifact, piece.shard)
    for rows in search.rows(piece):
        if removed is None:
            yield rows
        else:
            there_N = ~removed[rows.members_N - piece.first + piece.begin_row]
            yield KeyedRows(rows.keys_NK[there_N], rows.members_N[there_N], rows.words_NW[there_N])


def bands_and_rows(fuzzy: FuzzySettings, num_hashes: int) -> tuple[int, int]:
    """How signatures of `num_hashes` are cut. Raises `InputError` where they are too short."""
    if fuzzy.similarity is not None:
        from dataprep.signatures.minhash import optimal_bands

        return optimal_bands(fuzzy.similarity, num_hashes)
    if fuzzy.bands * fuzzy.rows > num_hashes:
        raise InputError(
            f"fuzzy: {fuzzy.bands} bands x {fuzzy.rows} rows need {fuzzy.bands * fuzzy.rows} hashes; the clean stage"
            f" made {num_hashes}. Lower bands or rows, or raise the clean stage's minhash.num_hashes"
        )
    return fuzzy.bands, fuzzy.rows


def signatures_of(piece: Piece) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    """The MinHash signatures of a piece, some thousand at a time: (index of the first document, [D, H])."""
    for first, table in signature_groups(*_rows_of(piece), ["minhash"], **_range_of(piece)):
        column = table.column("minhash").combine_chunks()
        yield _index(piece, first), column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _text_rows(piece: Piece) -> Iterator[KeyedRows]:
    for first, hashes in signature_groups(*_rows_of(piece), ["hash_high", "hash_low"], **_range_of(piece)):
        high, low = (column.to_numpy().reshape(-1, 1) for column in hashes.columns)
        yield KeyedRows(high, _index(piece, first) + np.arange(len(high)), low)


def _url_rows(piece: Piece) -> Iterator[KeyedRows]:
    from dataprep.signatures.url import url_hashes

    for first, documents in column_groups(*_rows_of(piece), ["url"], **_range_of(piece)):
        high, low, known = url_hashes(documents.column("url").to_pylist())
        members = _index(piece, first) + np.flatnonzero(known)
        yield KeyedRows(high[known].reshape(-1, 1), members, low[known].reshape(-1, 1))


def _band_rows(piece: Piece, *, bands: int, rows: int, sketch: bool) -> Iterator[KeyedRows]:
    from dataprep.signatures.bit_sketch import sketches
    from dataprep.signatures.minhash import NO_BAND, band_hashes

    for first, signatures_DH in signatures_of(piece):
        keys_DB = band_hashes(signatures_DH, bands=bands, rows=rows)
        usable = keys_DB[:, 0] != NO_BAND  # in all bands or none
        words_DW = sketches(signatures_DH[:, : bands * rows]) if sketch else np.empty((len(keys_DB), 0), np.uint64)
        yield KeyedRows(keys_DB[usable], first + np.flatnonzero(usable), words_DW[usable])


def _rows_of(piece: Piece) -> tuple[str, Shard]:
    return piece.artifact, piece.shard


def _range_of(piece: Piece) -> dict[str, Any]:
    return {"begin_row": piece.begin_row, "end_row": piece.end_row}


def _index(piece: Piece, row: int) -> int:
    """The document index of a row of the piece's shard."""
    return piece.first + row - piece.begin_row


def _equal_edges(rows: KeyedRows) -> npt.NDArray[np.int64]:
    from dataprep.dedupe.bucket_edges import equal_edges

    return equal_edges(rows.keys_NK[:, 0], rows.words_NW[:, 0], rows.members_N)


def _band_edges(rows: KeyedRows, *, similarity: float | None, num_hashes: int) -> npt.NDArray[np.int64]:
    from dataprep.dedupe.bucket_edges import bucket_edges, checked_edges
    from dataprep.signatures.bit_sketch import most_differing

    if similarity is None:
        return bucket_edges(rows.keys_NK[:, 0], rows.members_N)
    most = most_differing(similarity, num_hashes)
    return checked_edges(rows.keys_NK[:, 0], rows.members_N, rows.words_NW, most_differing=most)
