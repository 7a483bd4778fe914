"""The normal form of texts, so that all later rules need to know one kind of space and one kind of line break only.

1. Every line break that `str.splitlines` knows becomes "\\n".
2. Control characters other than tab, and the invisible U+00AD, U+200B, U+2060, U+FEFF, are removed. Joiners and
   direction marks stay: scripts need them.
3. Every other space (no-break, thin, ideographic ...) becomes " ", one for one; indentation and columns survive.
4. White space before a line break, at both ends of the text, and blank lines beyond one in a row are removed.
5. Unicode NFC, last, since what step 2 removes may stand between a letter and its accent.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataprep.text.characters import SPACE, character_flags, decode
from dataprep.text.column import TextColumn
from dataprep.text.numba_pointers import pointer_to

_REMOVED, _BLANK, _BREAK = 1, 2, 3  # the rest, 0, is content
_NUM_CLASSES = 0x10000
_LINE_BREAKS = (0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)
_INVISIBLE = (0xAD, 0x200B, 0x2060, 0xFEFF)
_TAB, _SPACE_BYTE, _NEWLINE, _RETURN = 0x09, 0x20, 0x0A, 0x0D


def normalise(texts: pa.LargeStringArray | pa.ChunkedArray) -> pa.LargeStringArray:
    """The texts in normal form; the array that came in where nothing changes. Idempotent."""
    column = TextColumn(texts)
    if len(column) == 0:
        return column.texts
    data = np.empty(column.num_bytes, np.uint8)
    offsets, changed = _tidy(column.data, column.offsets, _classes(), data)
    if changed:
        buffers = (pa.py_buffer(offsets), pa.py_buffer(data[: offsets[-1]]))
        column = TextColumn(pa.LargeStringArray.from_buffers(len(column), *buffers))
    return _composed(column)


def repair_mojibake(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """The texts with characters repaired that were decoded by the wrong charset ("schÃ¶n"), as ftfy detects them."""
    import ftfy

    return pa.array([ftfy.fix_encoding(text) for text in texts.to_pylist()], pa.large_string())


def _composed(column: TextColumn) -> pa.LargeStringArray:
    """The texts in NFC. Only those with a character from U+0300 on can be otherwise, so Python looks at these alone."""
    candidates = np.flatnonzero(_reaches_combining(column.data, column.offsets))
    changed = np.zeros(len(column), np.bool_)
    replacements: list[str] = []
    for row in candidates.tolist():
        text = column.texts[row].as_py()
        if not unicodedata.is_normalized("NFC", text):
            changed[row] = True
            replacements.append(unicodedata.normalize("NFC", text))
    if not replacements:
        return column.texts
    return pc.replace_with_mask(column.texts, pa.array(changed), pa.array(replacements, pa.large_string()))


@lru_cache(maxsize=1)
def _classes() -> npt.NDArray[np.uint8]:
    """[0x10000] what becomes of each code point: it is removed, a blank, a line break or content."""
    flags = character_flags()[:_NUM_CLASSES]
    classes = np.zeros(_NUM_CLASSES, np.uint8)
    classes[:0x20] = classes[0x7F:0xA0] = _REMOVED
    classes[(flags & SPACE) != 0] = _BLANK
    classes[list(_INVISIBLE)] = _REMOVED
    classes[list(_LINE_BREAKS)] = _BREAK
    return classes


@numba.njit(cache=True)
def _tidy(data_array, offsets, classes_array, out_array):
    """Write the texts after steps 1 to 4 to `out_array`; returns (their offsets, whether anything changed).

    `solid` is one past the last character of content written; blanks and breaks behind it may yet be taken back.
    """
    data, classes, out = pointer_to(data_array), pointer_to(classes_array), pointer_to(out_array)
    out_offsets = np.zeros(offsets.size, np.int64)
    changed = False
    n = 0
    for d in range(offsets.size - 1):
        begin = solid = n
        breaks = 0  # since the last content
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            byte = data[i]
            width, code = 1, np.int64(byte)
            if byte >= 0x80:
                code, width = decode(data, i, stop)
            kind = classes[code] if code < _NUM_CLASSES else np.uint8(0)
            if kind == 0:
                for k in range(i, i + width):
                    out[n] = data[k]
                    n += 1
                solid = n
                breaks = 0
            elif kind == _BREAK:
                if code == _RETURN and i + 1 < stop and data[i + 1] == _NEWLINE:
                    width = 2
                changed |= code != _NEWLINE
                breaks = min(breaks + 1, 2)
                n = solid
                for _ in range(breaks if solid > begin else 0):
                    out[n] = _NEWLINE
                    n += 1
            elif kind == _BLANK:
                changed |= width > 1
                if solid > begin:
                    out[n] = byte if width == 1 and byte == _TAB else np.uint8(_SPACE_BYTE)
                    n += 1
            i += width
        n = solid
        changed |= n - begin != stop - offsets[d]
        out_offsets[d + 1] = n
    return out_offsets, changed


@numba.njit(cache=True)
def _reaches_combining(data_array, offsets):
    """[D] whether a text has a character from U+0300 on, whose UTF-8 begins with byte 0xCC or more."""
    data = pointer_to(data_array)
    found = np.zeros(offsets.size - 1, np.bool_)
    for d in range(found.size):
        high = 0
        for i in range(offsets[d], offsets[d + 1]):
            high += data[i] >= 0xCC
        found[d] = high > 0
    return found
