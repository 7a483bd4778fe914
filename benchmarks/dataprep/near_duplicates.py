"""Bar 5: near copies found, by the number of changed words, and unique documents lost, on the same documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.dataprep.documents import Document
from benchmarks.dataprep.peer_process import Peer
from benchmarks.figures import Figure
from dataprep.dedupe.bucket_edges import checked_edges
from dataprep.dedupe.config import FuzzySettings
from dataprep.dedupe.union_find import UnionFind
from dataprep.signatures import minhash
from dataprep.signatures.bit_sketch import most_differing, sketches
from dataprep.signatures.config import MinHashSettings
from dataprep.text.column import TextColumn


def recall(documents: Sequence[Document], files: Sequence[Path], peer: Peer | None) -> list[Figure]:
    """Of the near copies with so many changed words, how many go with their source, on either side."""
    survivors = _survivors(documents)
    ours = _found(documents, {d.id for d, s in zip(documents, survivors, strict=True) if d is documents[s]})
    theirs = _found(documents, set(peer.run("near_duplicates", files)["kept"])) if peer else None
    edits = sorted({d.edits for d in documents if d.edits is not None})
    planted = Counter(d.edits for d in documents if d.kind == "near")
    figures = []
    for letter, number in zip("abcdefghijklmnopqrstuvwxy", edits, strict=False):
        mine, other = ours[number], None if theirs is None else theirs[number]
        value = None if other is None else mine
        what = f"near copies found, {number} changed word{'s' if number > 1 else ''}"
        figures.append(Figure(f"5{letter}", what, f"of {planted[number]}", value, other or 0, ours=mine, peer=other))
    mine, other = ours[None], None if theirs is None else theirs[None]
    settings = FuzzySettings()
    figures.append(
        Figure(
            "5z",
            "unique documents removed",
            "documents",
            None if other is None else mine,
            other or 0,
            at_most=True,
            ours=mine,
            peer=other,
            note=f"{len(documents):,} documents; ours {settings.bands} bands x {settings.rows} rows, checked at"
            f" {settings.verify}; datatrove 14 x 8, unchecked",
        )
    )
    return figures


def _survivors(documents: Sequence[Document]) -> np.ndarray:
    """The lowest index of each document's group, by the dedupe stage's own defaults."""
    column = TextColumn(pa.array([document.text for document in documents], pa.large_string()))
    signing, cutting = MinHashSettings(), FuzzySettings()
    assert cutting.verify is not None
    signatures_DH = minhash.signatures(
        column.terms, num_hashes=signing.num_hashes, ngram=signing.ngram, seed=signing.seed
    )
    keys = minhash.band_hashes(signatures_DH, bands=cutting.bands, rows=cutting.rows).reshape(-1)
    usable = keys != minhash.NO_BAND
    members = np.repeat(np.arange(len(documents)), cutting.bands)[usable]
    edges = checked_edges(
        keys[usable],
        members,
        sketches(signatures_DH)[members],
        most_differing=most_differing(cutting.verify, signing.num_hashes),
    )
    groups = UnionFind(len(documents))
    groups.add(edges)
    return groups.group_labels()


def _found(documents: Sequence[Document], kept: Set[str]) -> Counter[int | None]:
    """By changed words, pairs of which one went; under None, unique documents that went for no copy's sake."""
    copies: dict[str, list[str]] = {}
    for document in documents:
        if document.source_id is not None:
            copies.setdefault(document.source_id, []).append(document.id)
    counts: Counter[int | None] = Counter({None: 0})
    for document in documents:
        if document.kind == "near":
            counts[document.edits] += document.id not in kept or document.source_id not in kept
        elif document.kind == "unique" and document.id not in kept:
            counts[None] += kept.isdisjoint(copies.get(document.id, ()))
    return counts
