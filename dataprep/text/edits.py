"""What an editing filter leaves of each document, as spans of the column's buffer; new texts are made once, at its end.

Shape letters: D documents, S spans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.text.characters import SPACE, character_flags, decode, flags_of, previous_start
from dataprep.text.column import TextColumn
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import Spans


@dataclass(frozen=True)
class KeptSpans(Spans):
    """What stays of each document, as spans of the buffer in their order."""

    begins_line: npt.NDArray[np.bool_]  # [S] whether a line break comes before it, unless it is a document's first
    whole_D: npt.NDArray[np.bool_]  # whether a document stays as it is, whatever its spans
    num_words_D: npt.NDArray[np.int64] | None = None  # how many words are in what stays, where they were counted

    def edited(self, column: TextColumn) -> TextColumn:
        """The documents without what was cut, stripped of white space at their ends."""
        if len(column) == 0 or self.whole_D.all():
            return column
        offsets, data = _materialise(
            column.data, column.offsets, self.doc_offsets, self.starts, self.ends, self.begins_line, self.whole_D,
            character_flags(),
        )  # fmt: skip
        texts = pa.LargeStringArray.from_buffers(len(column), pa.py_buffer(offsets), pa.py_buffer(data))
        return TextColumn(texts, self.num_words_D)


@numba.njit(cache=True)
def _materialise(data_array, offsets, doc_offsets, starts, ends, begins_line, whole_D, flags_array):
    data, flags = pointer_to(data_array), pointer_to(flags_array)
    num_documents = whole_D.size
    room = starts.size
    for d in range(num_documents):
        room += offsets[d + 1] - offsets[d]  # spans of a document do not overlap
    out_array = np.empty(room, np.uint8)
    out = pointer_to(out_array)
    out_offsets = np.zeros(num_documents + 1, np.int64)
    position = 0
    for d in range(num_documents):
        if whole_D[d]:
            position = _copy(data, offsets[d], offsets[d + 1], out, position)
            out_offsets[d + 1] = position
            continue
        begin = position
        for span in range(doc_offsets[d], doc_offsets[d + 1]):
            if begins_line[span] and span > doc_offsets[d] and position > begin:
                out[position] = 0x0A
                position += 1
            i, end = starts[span], ends[span]
            while position == begin and i < end:
                code, width = decode(data, i, end)
                if flags_of(code, flags) & SPACE == 0:
                    break
                i += width
            position = _copy(data, i, end, out, position)
        while position > begin:
            at = previous_start(out, position, begin)
            if flags_of(decode(out, at, position)[0], flags) & SPACE == 0:
                break
            position = at
        out_offsets[d + 1] = position
    return out_offsets, out_array[:position].copy()


@numba.njit(cache=True)
def _copy(data, start, end, out, position):
    """Copy `data[start:end]` to `out[position:]`; returns the position behind it."""
    for k in range(start, end):
        out[position + k - start] = data[k]
    return position + end - start
