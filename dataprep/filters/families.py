"""Runs the filter families of one profile, one after another: which documents stay, as what texts, with what scores.

Gopher's families see the normalised text. C4, and after it RefinedWeb's corrections, cut lines out of the text, and all
families behind them see what is left. A family in mode "annotate" only stores its scores: it drops and cuts nothing.

Shape letters: D documents, K of them kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.filters import (
    bad_words,
    c4,
    decontamination,
    fineweb,
    gopher_quality,
    gopher_repetition,
    mc4,
    quality,
    refinedweb,
    url_blocklist,
)
from dataprep.filters.config import FamilySettings, FilterFamilies
from dataprep.filters.scores import Judged, Scores, struct_type
from dataprep.text.column import TextColumn

# What a family's column of scores holds. All families of a clean stage are here, also those that it runs itself.
SCORE_TYPES: dict[str, pa.StructType] = {
    url_blocklist.NAME: struct_type(url_blocklist.SCORES),
    gopher_repetition.NAME: struct_type(gopher_repetition.SCORES),
    gopher_quality.NAME: struct_type(gopher_quality.SCORES),
    c4.NAME: struct_type(c4.SCORES),
    refinedweb.NAME: struct_type(refinedweb.SCORES),
    mc4.NAME: struct_type(mc4.SCORES),
    fineweb.NAME: struct_type(fineweb.SCORES),
    bad_words.NAME: struct_type(bad_words.SCORES),
    quality.NAME: struct_type(quality.SCORES),
    decontamination.NAME: struct_type(decontamination.SCORES),
}
_Step = tuple[
    str, Callable[[TextColumn], Judged], bool
]  # its name, what it says of a column, whether it only annotates


@dataclass(frozen=True)
class FamilyDecisions:
    """What the families of a profile decide about D documents."""

    reasons_D: npt.NDArray[Any]  # object: the reason of the first rule that fails; "" for a document that is kept
    kept: TextColumn  # the texts of the K documents that are kept, after all cuts
    rows_K: npt.NDArray[np.int64]  # where these are among the D
    scores: dict[str, Scores]  # the scores of these, by the name of each family that annotates


class Families:
    """The families that one profile turns on, with the files that they need read once."""

    def __init__(self, settings: FilterFamilies) -> None:
        """Raises `InputError` for a list of words that can't be read."""
        self._steps = list(_steps(settings))

    def judge(self, column: TextColumn) -> FamilyDecisions:
        """Judge each document by every family that is on."""
        reasons_D = np.full(len(column), "", object)
        rows = np.arange(len(column))
        scores: dict[str, Scores] = {}
        for name, step, only_annotates in self._steps:
            judged = step(column)
            if only_annotates:
                scores[name] = judged.scores
                continue
            undecided = (judged.codes_D > 0) & (reasons_D[rows] == "")
            reasons_D[rows[undecided]] = np.array(["", *judged.reasons], object)[judged.codes_D[undecided]]
            if judged.kept is not None:
                column, rows, scores = _without_dropped(judged.kept.edited(column), rows, scores, reasons_D)
        return FamilyDecisions(reasons_D, *_without_dropped(column, rows, scores, reasons_D))


def _without_dropped(
    column: TextColumn, rows: npt.NDArray[np.int64], scores: dict[str, Scores], reasons_D: npt.NDArray[Any]
) -> tuple[TextColumn, npt.NDArray[np.int64], dict[str, Scores]]:
    left = reasons_D[rows] == ""
    if left.all():
        return column, rows, scores
    places = np.flatnonzero(left)
    return column.filter(left), rows[left], {name: found.take(places) for name, found in scores.items()}


# In the order in which they run; bad words, whose lists are read first, come last.
_FAMILIES: dict[str, Callable[..., Judged]] = {
    gopher_repetition.NAME: gopher_repetition.gopher_repetition,
    gopher_quality.NAME: gopher_quality.gopher_quality,
    c4.NAME: c4.c4,
    refinedweb.NAME: refinedweb.refinedweb,
    mc4.NAME: mc4.mc4,
    fineweb.NAME: fineweb.fineweb,
}


def _steps(settings: FilterFamilies) -> Iterator[_Step]:
    """The families that are on, in the order in which they run."""

    def step(name: str, judge: Callable[..., Judged], family: FamilySettings) -> _Step:
        return name, partial(judge, settings=family), family.mode == "annotate"

    for name, judge in _FAMILIES.items():
        family = getattr(settings, name)
        if family is not None:
            yield step(name, judge, family)
    if settings.bad_words is not None:
        yield step(bad_words.NAME, bad_words.BadWords.read(settings.bad_words).judge, settings.bad_words)
