"""The corpora of one deduplication in one numbering: earlier ones first, so that their documents win."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dataprep.documents import Shard, doc_ids

_MOST_PIECES = 256  # of a pack: that many files are read one after another
OWN = 0  # the number of the corpus that is deduplicated; the k-th of `against` is k


@dataclass(frozen=True)
class Piece:
    """A shard of one of the corpora, or some of its rows."""

    artifact: str  # that its paths are relative to
    corpus: int
    shard: Shard
    first: int  # the index of its first document, counting through all pieces
    begin_row: int = 0  # of the shard, where the piece is a part of it
    end_row: int | None = None  # None: the shard's end

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Piece:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**row, "shard": Shard.from_row(row["shard"])})

    @property
    def end(self) -> int:
        """One more than the index of its last document."""
        return self.first + self.num_documents

    @property
    def num_documents(self) -> int:
        """Of the piece."""
        return (self.shard.num_documents if self.end_row is None else self.end_row) - self.begin_row

    def cut(self, *, most_documents: int) -> list[Piece]:
        """The piece in pieces of at most so many documents."""
        if self.num_documents <= most_documents:
            return [self]
        ends = [min(at + most_documents, self.num_documents) for at in range(0, self.num_documents, most_documents)]
        return [
            replace(self, first=self.first + begin, begin_row=self.begin_row + begin, end_row=self.begin_row + end)
            for begin, end in zip([0, *ends], ends, strict=False)
        ]


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

    def packs(self, *, most_documents: int) -> list[list[Piece]]:
        """Neighbouring pieces in packs of at most so many documents, large ones cut; empty pieces left out."""
        packs: list[list[Piece]] = []
        for piece in (part for whole in self.pieces for part in whole.cut(most_documents=most_documents)):
            if piece.num_documents == 0:
                continue
            if not packs or len(packs[-1]) == _MOST_PIECES or piece.end - packs[-1][0].first > most_documents:
                packs.append([])
            packs[-1].append(piece)
        return packs

    def names(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(corpus, doc_id) of documents given by index; any shape."""
        firsts = np.array([piece.first for piece in self.pieces], np.int64)
        at = np.searchsorted(firsts, indices, side="right") - 1
        corpus = np.array([piece.corpus for piece in self.pieces], np.int64)[at]
        numbers = np.array([piece.shard.number for piece in self.pieces], np.int64)[at]
        return corpus, doc_ids(numbers, indices - firsts[at])
