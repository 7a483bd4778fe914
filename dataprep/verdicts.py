"""What becomes of a batch of texts: language, then the filter families, each text's first failing rule its reason.

The views: Gopher's rules see the normalised text, C4 cuts lines out of it, FineWeb's rules and all hashes see what C4
left. Shape letters: D texts of the batch, K of them kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.config import CleanConfig
from dataprep.filters import c4, fineweb, gopher_quality, gopher_repetition
from dataprep.language import identify
from dataprep.text_column import TextColumn

EMPTY, LANGUAGE, LANGUAGE_SCORE = "empty_text", "language", "language_score"


@dataclass(frozen=True)
class Verdicts:
    """The outcome for each text of a batch."""

    reasons_D: npt.NDArray[Any]  # object: why it is dropped; "" for keep
    languages_D: pa.StringArray
    scores_D: npt.NDArray[np.float32]
    kept: TextColumn  # the K kept texts after their edits

    @property
    def keep_D(self) -> npt.NDArray[np.bool_]:
        return self.reasons_D == ""


def judge(texts: pa.LargeStringArray, config: CleanConfig) -> Verdicts:
    """The verdicts on normalised texts."""
    column = TextColumn(texts)
    reasons = np.full(len(texts), "", object)
    reasons[column.num_chars_D == 0] = EMPTY
    labels, scores = identify(texts)
    languages = labels.to_numpy(zero_copy_only=False)
    if config.languages is not None:
        _set(reasons, ~np.isin(languages, config.languages), LANGUAGE)
    _set(reasons, scores < config.language_threshold, LANGUAGE_SCORE)

    alive = np.flatnonzero(reasons == "")
    column = TextColumn(texts.take(pa.array(alive)))
    if config.gopher_repetition is not None:
        codes = gopher_repetition.gopher_repetition(column, config.gopher_repetition)
        _set_codes(reasons, alive, codes, gopher_repetition.REASONS)
    if config.gopher_quality is not None:
        codes = gopher_quality.gopher_quality(column, config.gopher_quality)
        _set_codes(reasons, alive, codes, gopher_quality.REASONS)
    if config.c4 is not None:
        result = c4.c4(column, config.c4)
        _set_codes(reasons, alive, result.reasons, c4.REASONS)
        column = result.edited_column(column)
    column, alive = _only(column, alive, reasons)
    if config.fineweb is not None:
        codes = fineweb.fineweb(column, config.fineweb)
        _set_codes(reasons, alive, codes, fineweb.REASONS)
        column, alive = _only(column, alive, reasons)
    return Verdicts(reasons, pa.array(languages, pa.string()), scores, column)


def _only(
    column: TextColumn, alive: npt.NDArray[np.int64], reasons_D: npt.NDArray[Any]
) -> tuple[TextColumn, npt.NDArray[np.int64]]:
    """The texts that still have no reason, and their places in the batch."""
    left = reasons_D[alive] == ""
    if left.all():
        return column, alive
    return column.filter(left), alive[left]


def _set(reasons_D: npt.NDArray[Any], fails_D: npt.NDArray[np.bool_], reason: str) -> None:
    """Give a reason to those that fail and have none."""
    reasons_D[fails_D & (reasons_D == "")] = reason


def _set_codes(
    reasons_D: npt.NDArray[Any],
    alive: npt.NDArray[np.int64],
    codes: npt.NDArray[np.uint8],
    names: Sequence[str],
) -> None:
    """`_set` from a family's codes (0: keep, k: the k-th of `names`) for the texts at `alive`."""
    undecided = (codes > 0) & (reasons_D[alive] == "")
    reasons_D[alive[undecided]] = np.array(["", *names], object)[codes[undecided]]
