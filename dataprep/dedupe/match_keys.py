"""By which keys duplicates are found: the match rules of deduplication.

A rule gives each document one key or several. Documents with an equal key are brought together (`keyed_shuffle.py`),
and the rule says which of these are joined. There are three, tried in this order, in which a document also gets the
reason for its removal: equal texts (one key, a hash of the text), equal URLs (one key, a hash of the URL's normal form)
and near duplicates (one key for each band of the MinHash signature).

Kernels are imported in the functions that tasks run, after `prepare_worker` has said where they are kept compiled.
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
from dataprep.dedupe.corpora import OWN, ShardSlice
from dataprep.dedupe.keyed_shuffle import KeyedRows
from dataprep.dedupe.removals import EXACT, NEAR, URL
from dataprep.documents import Shard, document_groups, removed_rows, signature_groups

_SKETCH_BITS = 64  # of a word


@dataclass(frozen=True)
class MatchRule:
    """One way to find duplicates. Picklable."""

    name: str  # in the names of committed units
    reason: str  # of the removals it leads to
    num_keys: int  # of a document
    num_words: int  # of 64 bits that go with each key, to compare documents by
    rows: Callable[[ShardSlice], Iterator[KeyedRows]]  # some thousand documents at a time
    edges: Callable[[KeyedRows], npt.NDArray[np.int64]]  # [E, 2] members to join, of rows in which each has one key


def match_rules(config: DedupeConfig, *, num_hashes: int) -> list[MatchRule]:
    """The rules that the settings turn on, for documents whose signatures have at least `num_hashes` hashes."""
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


def keyed_rows(rule: MatchRule, shard_slice: ShardSlice) -> Iterator[KeyedRows]:
    """The documents of a slice with their keys, without those that the deduplication of an earlier corpus removed.

    Those are in no corpus any longer: a document that lost to one of them would be lost altogether.
    """
    removed = None
    if shard_slice.corpus != OWN and shard_slice.shard.removals is not None:
        removed = removed_rows(shard_slice.artifact, shard_slice.shard)
    for rows in rule.rows(shard_slice):
        if removed is None:
            yield rows
        else:
            there_N = ~removed[rows.members_N - shard_slice.first + shard_slice.begin_row]
            yield KeyedRows(rows.keys_NK[there_N], rows.members_N[there_N], rows.words_NW[there_N])


def bands_and_rows(fuzzy: FuzzySettings, num_hashes: int) -> tuple[int, int]:
    """(bands, rows of each) that signatures of `num_hashes` are cut into. Raises `InputError` where that is too few."""
    if fuzzy.similarity is not None:
        from dataprep.signatures.minhash import optimal_bands

        return optimal_bands(fuzzy.similarity, num_hashes)
    if fuzzy.bands * fuzzy.rows > num_hashes:
        raise InputError(
            f"fuzzy: {fuzzy.bands} bands x {fuzzy.rows} rows need {fuzzy.bands * fuzzy.rows} hashes; the clean stage"
            f" made {num_hashes}. Lower bands or rows, or raise the clean stage's minhash.num_hashes"
        )
    return fuzzy.bands, fuzzy.rows


def signatures_of(shard_slice: ShardSlice) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    """The MinHash signatures of a slice, some thousand at a time: (index of the first document, [D, H] hashes)."""
    for first, table in signature_groups(*_rows_of(shard_slice), ["minhash"], **_range_of(shard_slice)):
        column = table.column("minhash").combine_chunks()
        yield _index(shard_slice, first), column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _text_rows(shard_slice: ShardSlice) -> Iterator[KeyedRows]:
    for first, hashes in signature_groups(*_rows_of(shard_slice), ["hash_high", "hash_low"], **_range_of(shard_slice)):
        high, low = (column.to_numpy().reshape(-1, 1) for column in hashes.columns)
        yield KeyedRows(high, _index(shard_slice, first) + np.arange(len(high)), low)


def _url_rows(shard_slice: ShardSlice) -> Iterator[KeyedRows]:
    from dataprep.signatures.url import url_hashes

    for first, documents in document_groups(*_rows_of(shard_slice), ["url"], **_range_of(shard_slice)):
        high, low, known = url_hashes(documents.column("url").to_pylist())
        members = _index(shard_slice, first) + np.flatnonzero(known)
        yield KeyedRows(high[known].reshape(-1, 1), members, low[known].reshape(-1, 1))


def _band_rows(shard_slice: ShardSlice, *, bands: int, rows: int, sketch: bool) -> Iterator[KeyedRows]:
    from dataprep.signatures.bit_sketch import sketches
    from dataprep.signatures.minhash import NO_BAND, band_hashes

    for first, signatures_DH in signatures_of(shard_slice):
        keys_DB = band_hashes(signatures_DH, bands=bands, rows=rows)
        usable = keys_DB[:, 0] != NO_BAND  # in all bands or none
        words_DW = sketches(signatures_DH[:, : bands * rows]) if sketch else np.empty((len(keys_DB), 0), np.uint64)
        yield KeyedRows(keys_DB[usable], first + np.flatnonzero(usable), words_DW[usable])


def _rows_of(shard_slice: ShardSlice) -> tuple[str, Shard]:
    return shard_slice.artifact, shard_slice.shard


def _range_of(shard_slice: ShardSlice) -> dict[str, Any]:
    return {"begin_row": shard_slice.begin_row, "end_row": shard_slice.end_row}


def _index(shard_slice: ShardSlice, row: int) -> int:
    """The document index of a row of the slice's shard."""
    return shard_slice.first + row - shard_slice.begin_row


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
