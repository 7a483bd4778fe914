"""The corpora of one deduplication in one numbering: earlier ones first, so that their documents win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataprep.documents import Shard, doc_ids

OWN = 0  # the number of the corpus that is deduplicated; the k-th of `against` is k


@dataclass(frozen=True)
class Piece:
    """A shard of one of the corpora."""

    artifact: str  # that its paths are relative to
    corpus: int
    shard: Shard
    first: int  # the index of its first document, counting through all pieces


@dataclass(frozen=True)
class Corpora:
    """All pieces, in the order of their documents' indices."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, own: tuple[str, Sequence[Shard]], against: Sequence[tuple[str, Sequence[Shard]]]) -> Corpora:
        """`own` and each of `against` as (artifact, shards)."""
        pieces: list[Piece] = []
        first = 0
        numbered = [*enumerate(against, 1), (OWN, own)]
        for corpus, (artifact, shards) in numbered:
            for shard in shards:
                pieces.append(Piece(artifact, corpus, shard, first))
                first += shard.num_documents
        return cls(tuple(pieces))

    @property
    def own(self) -> list[Piece]:
        """The pieces of the corpus that is deduplicated."""
        return [piece for piece in self.pieces if piece.corpus == OWN]

    @property
    def num_documents(self) -> int:
        """Of all corpora."""
        return self.pieces[-1].first + self.pieces[-1].shard.num_documents if self.pieces else 0

    @property
    def own_first(self) -> int:
        """The index of the first document that may be removed."""
        return self.own[0].first if self.own else self.num_documents

    def names(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(corpus, doc_id) of documents given by index; any shape."""
        firsts = np.array([piece.first for piece in self.pieces], np.int64)
        at = np.searchsorted(firsts, indices, side="right") - 1
        corpus = np.array([piece.corpus for piece in self.pieces], np.int64)[at]
        numbers = np.array([piece.shard.number for piece in self.pieces], np.int64)[at]
        return corpus, doc_ids(numbers, indices - firsts[at])
