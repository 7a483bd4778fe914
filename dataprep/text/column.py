"""A column of documents as one UTF-8 buffer with offsets. Its words, terms and lines are split once, when asked for.

Shape letters: D documents, L lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.text.characters import decode
from dataprep.text.hashing import hash_bytes
from dataprep.text.match_terms import split_terms
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import HashedSpans
from dataprep.text.words import Words, split_words


@dataclass(frozen=True)
class Lines(HashedSpans):
    """The lines of each document as `str.splitlines` gives them, without line breaks, with hashes of their bytes."""

    num_chars: npt.NDArray[np.int32]  # [L] length in code points


class TextColumn:
    """Documents as views on the buffers of an Arrow array; of a slice nothing is copied.

    Document d is `data[offsets[d]:offsets[d+1]]`, and all spans of the column are positions in `data`. Raises
    `ValueError` for nulls, and for an array of anything but text.
    """

    def __init__(
        self,
        texts: pa.LargeStringArray | pa.StringArray | pa.ChunkedArray,
        num_words_D: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """`num_words_D`: how many words each document has, where a filter has counted them already."""
        self.texts = _single_array(texts)
        self._num_words_D = num_words_D
        _, offsets, data = self.texts.buffers()
        if offsets is None or offsets.size == 0:
            self.offsets: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        else:
            first = self.texts.offset
            self.offsets = np.frombuffer(offsets, np.int64)[first : first + len(self.texts) + 1]
        self.data: npt.NDArray[np.uint8] = np.frombuffer(b"" if data is None else data, np.uint8)
        self.data.flags.writeable = self.offsets.flags.writeable = False  # so that kernels are compiled for one type

    def __len__(self) -> int:
        return len(self.texts)

    def filter(self, keep_D: npt.NDArray[np.bool_]) -> TextColumn:
        """The documents where `keep_D` holds; the column itself where that is all of them."""
        if keep_D.all():
            return self
        counted = self._num_words_D is not None or "words" in self.__dict__
        num_words = self.num_words_D[keep_D] if counted else None
        return TextColumn(self.texts.filter(pa.array(keep_D)), num_words)

    @property
    def num_bytes(self) -> int:
        """The UTF-8 bytes of all documents."""
        return int(self.offsets[-1] - self.offsets[0])

    @cached_property
    def words(self) -> Words:
        """The words of each document, which filters count; see `dataprep.text.words`."""
        return split_words(self.data, self.offsets)

    @property
    def num_words_D(self) -> npt.NDArray[np.int64]:
        """[D] how many words each document has; texts are split for it only where that isn't known."""
        return self.words.counts_D() if self._num_words_D is None else self._num_words_D

    @cached_property
    def terms(self) -> HashedSpans:
        """The terms of each document, which duplicates are matched on; see `dataprep.text.match_terms`."""
        return split_terms(self.data, self.offsets)

    @cached_property
    def lines(self) -> Lines:
        """The lines of each document."""
        return Lines(*_split_lines(self.data, self.offsets))

    @cached_property
    def num_chars_D(self) -> npt.NDArray[np.int64]:
        """[D] the code points of each document."""
        return _count_chars(self.data, self.offsets)


def _single_array(texts: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    if texts.null_count:
        raise ValueError(f"the text column has {texts.null_count} nulls; drop those rows or fill them with ''")
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise ValueError(f"the text column has type {texts.type}; it must be large_string or string")
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.cast(pa.large_string()).combine_chunks()
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.chunk(0) if texts.num_chunks else pa.array([], pa.large_string())
    return texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())


@numba.njit(cache=True)
def _split_lines(data_array, offsets):
    data = pointer_to(data_array)
    doc_offsets = np.zeros(offsets.size, np.int64)
    n = 0
    for d in range(offsets.size - 1):
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            width = _line_break_width(data, i, stop)
            n += width > 0 or i + 1 == stop
            i += max(width, 1)
        doc_offsets[d + 1] = n
    starts, ends = np.empty(n, np.int64), np.empty(n, np.int64)
    hashes, num_chars = np.empty(n, np.uint64), np.empty(n, np.int32)
    for d in range(offsets.size - 1):
        i, stop = offsets[d], offsets[d + 1]
        for line in range(doc_offsets[d], doc_offsets[d + 1]):
            start = i
            width = 0
            while i < stop and width == 0:
                width = _line_break_width(data, i, stop)
                i += max(width, 1)
            starts[line], ends[line] = start, i - width
            hashes[line] = hash_bytes(data, start, i - width)
            num_chars[line] = count_chars(data, start, i - width)
    return doc_offsets, starts, ends, hashes, num_chars


@numba.njit(cache=True)
def _line_break_width(data, i, stop):
    """The bytes of the line break at byte `i` (one of those of `str.splitlines`), or 0."""
    byte = data[i]
    if byte > 0x1E and byte != 0xC2 and byte != 0xE2:
        return 0
    if byte == 0x0D:
        return 2 if i + 1 < stop and data[i + 1] == 0x0A else 1
    if 0x0A <= byte <= 0x0C or 0x1C <= byte <= 0x1E:
        return 1
    if byte == 0xC2 or byte == 0xE2:
        code, width = decode(data, i, stop)
        if code == 0x85 or code == 0x2028 or code == 0x2029:
            return width
    return 0


@numba.njit(cache=True)
def count_chars(data, start, end):
    """The code points of `data[start:end]`: its bytes that do not continue a character."""
    n = 0
    for i in range(start, end):
        n += data[i] & 0xC0 != 0x80
    return n


@numba.njit(cache=True)
def _count_chars(data_array, offsets):
    data = pointer_to(data_array)
    counts = np.empty(offsets.size - 1, np.int64)
    for d in range(counts.size):
        counts[d] = count_chars(data, offsets[d], offsets[d + 1])
    return counts
