"""What a filter family measures, and the limits that turn it into decisions.

A family measures each document once (`Scores`); its rules are limits on these scores, in order. So filtering and
annotating are one computation: `mode: annotate` stores the scores instead of applying the limits.

Shape letters: D documents, S scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.text.edits import KeptSpans


@dataclass(frozen=True)
class Scores:
    """One number per document and score. NaN where a score says nothing about a document: no limit applies to it."""

    names: tuple[str, ...]
    values_SD: npt.NDArray[np.float64]

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        """[D] the score of that name, as a view."""
        return self.values_SD[self.names.index(name)]

    def take(self, rows: npt.NDArray[np.int64]) -> Scores:
        """The scores of some documents, in the order of `rows`."""
        return Scores(self.names, self.values_SD[:, rows])

    def replaced(self, name: str, values_D: npt.NDArray[np.float64]) -> Scores:
        """These scores, with other values for one of them."""
        values_SD = self.values_SD.copy()
        values_SD[self.names.index(name)] = values_D
        return Scores(self.names, values_SD)

    def struct_array(self) -> pa.StructArray:
        """The scores as a column of the documents table; null for NaN."""
        return pa.StructArray.from_arrays(
            [pa.array(values_D, pa.float64(), from_pandas=True) for values_D in self.values_SD], list(self.names)
        )


def struct_type(names: Sequence[str]) -> pa.StructType:
    """The type of `Scores.struct_array`."""
    return pa.struct([(name, pa.float64()) for name in names])


@dataclass(frozen=True)
class Limit:
    """A rule: the reason for which a document is dropped whose score is out of bounds. None: no bound."""

    reason: str
    score: str
    least: float | None = None
    most: float | None = None


def first_failing(scores: Scores, limits: Sequence[Limit]) -> npt.NDArray[np.uint8]:
    """[D] 0 for keep, else 1 + the index of the first limit that a document fails."""
    codes_D = np.zeros(scores.values_SD.shape[1], np.uint8)
    for code, limit in reversed(list(enumerate(limits, start=1))):
        values_D = scores[limit.score]
        if limit.least is not None:
            codes_D[values_D < limit.least] = code
        if limit.most is not None:
            codes_D[values_D > limit.most] = code
    return codes_D


@dataclass(frozen=True)
class Judged:
    """What a family says of each document."""

    codes_D: npt.NDArray[np.uint8]  # 0 for keep, else 1 + the index into `reasons` of the first rule that fails
    reasons: tuple[str, ...]
    scores: Scores
    kept: KeptSpans | None = None  # of a family that edits: what it leaves of each document


def at_most(limit: float | None) -> float:
    """An upper limit; infinity for None."""
    return math.inf if limit is None else float(limit)


def at_least(limit: float | None) -> float:
    """A lower limit; minus infinity for None."""
    return -math.inf if limit is None else float(limit)
