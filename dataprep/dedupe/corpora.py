"""All corpora of one deduplication, with their documents counted through from 0: the *document index*.

Earlier corpora come first. The lowest index of a group of duplicates stays, so a document of an earlier corpus wins
over its copies in the corpus that is deduplicated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dataprep.documents import Shard, doc_ids

_MOST_SLICES = 256  # of a pack: that many files are read one after another
OWN = 0  # the number of the corpus that is deduplicated; the k-th of `against` is k


@dataclass(frozen=True)
class ShardSlice:
    """A shard of one of the corpora, or a run of its rows."""

    artifact: str  # the URI that the paths of its shard are relative to
    corpus: int  # `OWN`, or k for the k-th of `against`
    shard: Shard
    first: int  # the index of its first document
    begin_row: int = 0  # of the shard
    end_row: int | None = None  # exclusive; None: the shard's end

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ShardSlice:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**row, "shard": Shard.from_row(row["shard"])})

    @property
    def end(self) -> int:
        """One more than the index of its last document."""
        return self.first + self.num_documents

    @property
    def num_documents(self) -> int:
        """How many documents it has."""
        return (self.shard.num_documents if self.end_row is None else self.end_row) - self.begin_row

    def cut(self, *, most_documents: int) -> list[ShardSlice]:
        """This slice, divided into slices of at most so many documents."""
        if self.num_documents <= most_documents:
            return [self]
        ends = [min(at + most_documents, self.num_documents) for at in range(0, self.num_documents, most_documents)]
        return [
            replace(self, first=self.first + begin, begin_row=self.begin_row + begin, end_row=self.begin_row + end)
            for begin, end in zip([0, *ends], ends, strict=False)
        ]


@dataclass(frozen=True)
class Corpora:
    """The shards of all corpora as slices, in the order of their documents' indices."""

    slices: tuple[ShardSlice, ...]

    @classmethod
    def of(cls, own: tuple[str, Sequence[Shard]], against: Sequence[tuple[str, Sequence[Shard]]]) -> Corpora:
        """From the corpus to deduplicate and the earlier ones, each as (URI of the artifact, shards)."""
        slices: list[ShardSlice] = []
        first = 0
        numbered = [*enumerate(against, 1), (OWN, own)]
        for corpus, (artifact, shards) in numbered:
            for shard in shards:
                slices.append(ShardSlice(artifact, corpus, shard, first))
                first += shard.num_documents
        return cls(tuple(slices))

    @property
    def own(self) -> list[ShardSlice]:
        """The slices of the corpus that is deduplicated."""
        return [shard_slice for shard_slice in self.slices if shard_slice.corpus == OWN]

    @property
    def num_documents(self) -> int:
        """How many documents all corpora have."""
        return self.slices[-1].first + self.slices[-1].shard.num_documents if self.slices else 0

    @property
    def own_first(self) -> int:
        """The index of the first document that may be removed."""
        return self.own[0].first if self.own else self.num_documents

    def packs(self, *, most_documents: int) -> list[list[ShardSlice]]:
        """The work of one task each: neighbouring slices of at most so many documents together, empty ones left out."""
        packs: list[list[ShardSlice]] = []
        for shard_slice in (part for whole in self.slices for part in whole.cut(most_documents=most_documents)):
            if shard_slice.num_documents == 0:
                continue
            if not packs or len(packs[-1]) == _MOST_SLICES or shard_slice.end - packs[-1][0].first > most_documents:
                packs.append([])
            packs[-1].append(shard_slice)
        return packs

    def names(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(corpus, doc_id) of each document index; arrays of any shape."""
        firsts = np.array([shard_slice.first for shard_slice in self.slices], np.int64)
        at = np.searchsorted(firsts, indices, side="right") - 1
        corpus = np.array([shard_slice.corpus for shard_slice in self.slices], np.int64)[at]
        numbers = np.array([shard_slice.shard.number for shard_slice in self.slices], np.int64)[at]
        return corpus, doc_ids(numbers, indices - firsts[at])
