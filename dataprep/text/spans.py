"""Spans of a text buffer in flat arrays, and how a compiled splitter fills such arrays.

Shape letters: D documents, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Spans:
    """Spans of a buffer, document after document. What spans are of, and what else is known of each, subclasses say."""

    doc_offsets: npt.NDArray[np.int64]  # [D+1] document d has the spans doc_offsets[d]:doc_offsets[d+1]
    starts: npt.NDArray[np.int64]  # [S] first byte
    ends: npt.NDArray[np.int64]  # [S] one past the last byte

    def counts_D(self) -> npt.NDArray[np.int64]:
        """[D] how many spans each document has."""
        return np.diff(self.doc_offsets)


@dataclass(frozen=True)
class HashedSpans(Spans):
    """Spans with a hash each of what they hold: the words, terms or lines of documents."""

    hashes: npt.NDArray[np.uint64]  # [S]


def filled(
    fill: Any,
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    tables: tuple[npt.NDArray[Any], ...],
    dtypes: Sequence[type[np.generic]],
    *,
    bytes_per_span: int,
) -> list[npt.NDArray[Any]]:
    """The columns that a compiled splitter `fill` makes of the texts, whose number of spans is not known before.

    It is given arrays of a likely size. Where it runs out of room, it stops, and is called again from there with larger
    ones. It can't make them larger itself: an array variable that a compiled loop assigns to is reference-counted at
    every turn.
    """
    doc_offsets = np.zeros(len(offsets), np.int64)
    capacity = max(64, int(offsets[-1] - offsets[0]) // bytes_per_span)
    columns: list[npt.NDArray[Any]] = [np.empty(capacity, dtype) for dtype in dtypes]
    state = (0, int(offsets[0]), 0)  # where to go on: document, byte, number of spans
    while True:
        document, position, num_spans, room = fill(data, offsets, *tables, doc_offsets, *columns, *state)
        if document == len(offsets) - 1:
            return [doc_offsets, *(column[:num_spans] for column in columns)]
        state = (document, position, num_spans)
        capacity = max(2 * capacity, num_spans + room)
        columns = [np.concatenate([column, np.empty(capacity - len(column), column.dtype)]) for column in columns]
