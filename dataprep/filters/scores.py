"""What a filter family measures, and the limits that make decisions of it.

A family measures each document once (`Scores`). Its rules are limits on these scores, in order. So to filter and to
annotate are one computation: in mode "annotate" the scores are stored, and the limits are not applied.

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
    """A number for each score and document; NaN, to which no limit applies, where a score says nothing about one."""

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
        """The scores as a column of the table of documents, with null for NaN."""
        return pa.StructArray.from_arrays(
            [pa.array(values_D, pa.float64(), from_pandas=True) for values_D in self.values_SD], list(self.names)
        )


def struct_type(names: Sequence[str]) -> pa.StructType:
    """The type of `Scores.struct_array`."""
    return pa.struct([(name, pa.float64()) for name in names])


@dataclass(frozen=True)
class Limit:
    """A rule: the reason to drop a document whose score is below `least` or above `most`. None: no such bound."""

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
    """What a family finds about each document."""

    codes_D: npt.NDArray[np.uint8]  # 0 for keep, else 1 + the index into `reasons` of the first rule that fails
    reasons: tuple[str, ...]
    scores: Scores
    kept: KeptSpans | None = None  # what stays of each document; None for a family that cuts nothing


def at_most(limit: float | None) -> float:
    """An upper limit as a number: infinity for None."""
    return math.inf if limit is None else float(limit)


def at_least(limit: float | None) -> float:
    """A lower limit as a number: minus infinity for None."""
    return -math.inf if limit is None else float(limit)
