"""Replaces personal data in a column of texts by placeholders of its kind.

Shape letter: D documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataprep.pii.config import PiiSettings
from dataprep.pii.kinds import KINDS
from dataprep.pii.scan import Matches, find
from dataprep.text.column import TextColumn
from dataprep.text.numba_pointers import pointer_to


@dataclass(frozen=True)
class Redacted:
    """Texts in which personal data is replaced, and how much of it there was."""

    texts: pa.LargeStringArray
    counts: dict[str, int]  # kind -> how many were replaced, for the kinds that were found
    num_documents: int  # how many documents had any


def redact(column: TextColumn, settings: PiiSettings, *, skip_D: npt.NDArray[np.bool_] | None = None) -> Redacted:
    """Replace the kinds that the settings name, except in documents of `skip_D`. Without any, the array stays."""
    if skip_D is not None and skip_D.any():
        rows = np.flatnonzero(~skip_D)
        part = redact(column.filter(~skip_D), settings)
        order = np.empty(len(column), np.int64)
        order[rows] = np.arange(len(rows))
        order[skip_D] = len(rows) + np.arange(int(skip_D.sum()))
        texts = pa.concat_arrays([part.texts, column.filter(skip_D).texts]).take(pa.array(order))
        return Redacted(texts, part.counts, part.num_documents)
    matches = find(column, [KINDS.index(kind) for kind in settings.kinds])
    per_kind = np.bincount(matches.kinds, minlength=len(KINDS)).tolist()
    counts: dict[str, int] = {kind: count for kind, count in zip(KINDS, per_kind, strict=True) if count}
    if not counts:
        return Redacted(column.texts, {}, 0)
    placeholders = [settings.placeholders.get(kind, placeholder(kind)).encode() for kind in KINDS]
    return Redacted(_replaced(column, matches, placeholders), counts, int(np.count_nonzero(matches.counts_D())))


def placeholder(kind: str) -> str:
    """The placeholder of a kind by default, as "<EMAIL_ADDRESS>" for "email_address"."""
    return f"<{kind.upper()}>"


def _replaced(column: TextColumn, matches: Matches, placeholders: list[bytes]) -> pa.LargeStringArray:
    lengths = np.array([len(text) for text in placeholders], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    room = column.num_bytes + int(lengths[matches.kinds].sum() - (matches.ends - matches.starts).sum())
    out = np.empty(room, np.uint8)
    offsets = _replace(
        column.data, column.offsets, matches.doc_offsets, matches.starts, matches.ends, matches.kinds,
        np.frombuffer(b"".join(placeholders) or b"\0", np.uint8), starts, out,
    )  # fmt: skip
    return pa.LargeStringArray.from_buffers(len(column), pa.py_buffer(offsets), pa.py_buffer(out))


@numba.njit(cache=True)
def _replace(data_array, offsets, doc_offsets, starts, ends, kinds, placeholder_array, placeholder_offsets, out_array):
    data, out, placeholders = pointer_to(data_array), pointer_to(out_array), pointer_to(placeholder_array)
    out_offsets = np.zeros(offsets.size, np.int64)
    n = 0
    for d in range(offsets.size - 1):
        i = offsets[d]
        for match in range(doc_offsets[d], doc_offsets[d + 1]):
            for k in range(i, starts[match]):
                out[n + k - i] = data[k]
            n += starts[match] - i
            kind = kinds[match]
            for k in range(placeholder_offsets[kind], placeholder_offsets[kind + 1]):
                out[n] = placeholders[k]
                n += 1
            i = ends[match]
        for k in range(i, offsets[d + 1]):
            out[n + k - i] = data[k]
        n += offsets[d + 1] - i
        out_offsets[d + 1] = n
    return out_offsets
