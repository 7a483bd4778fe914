"""Names, types and shapes of the tensors in safetensors files, from the files' heads alone.

A safetensors file begins with the length of its head (8 bytes, little-endian) and the head itself, a JSON object of
tensor -> {dtype, shape, data_offsets}; the offsets count from the end of the head, and the file ends with the last one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact, InputError

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_LENGTH_BYTES = 8
_MOST_HEAD_BYTES = 100_000_000  # the format's own limit
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorHeader:
    """One tensor, without its values."""

    dtype: str  # by safetensors' name, such as "BF16"
    shape: tuple[int, ...]
    position: int  # of its first byte in the file
    num_bytes: int


def tensor_headers(uri: str) -> dict[str, TensorHeader]:
    """The tensors of one safetensors file. Raises `CorruptArtifact` for a file that is cut short or is none.

    Two small reads, however large the file is.
    """
    filesystem, path = storage.locate(uri)
    try:
        with filesystem.open_input_file(path) as stream:
            size = stream.size()
            begin = bytes(stream.read(max(_LENGTH_BYTES, len(_LFS_POINTER))))
            if begin.startswith(_LFS_POINTER):
                raise CorruptArtifact("is only the pointer that Git LFS leaves in place of a file")
            length = int.from_bytes(begin[:_LENGTH_BYTES], "little")
            if size < _LENGTH_BYTES or not 2 <= length <= min(_MOST_HEAD_BYTES, size - _LENGTH_BYTES):
                raise CorruptArtifact(f"is no safetensors file, or cut short: it has {size:,} bytes")
            stream.seek(_LENGTH_BYTES)
            head = bytes(stream.read(length))
    except OSError as error:
        raise InputError(f"can't be read: {error}") from error
    try:
        found, end = _parsed(json.loads(head), _LENGTH_BYTES + length)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"has a head that is no safetensors head ({error!r})") from error
    if size != end:
        raise CorruptArtifact(f"has {size:,} bytes, and its head tells of {end:,}")
    return found


def _parsed(head: Mapping[str, Any], begin: int) -> tuple[dict[str, TensorHeader], int]:
    """The tensors of a head that ends at `begin`, and where the last one ends.

    Raises `ValueError` for offsets that don't fit the shapes.
    """
    found: dict[str, TensorHeader] = {}
    end = begin
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        shape = tuple(int(size) for size in entry["shape"])
        header = TensorHeader(str(entry["dtype"]), shape, begin + start, stop - start)
        width = DTYPE_BYTES.get(header.dtype)
        if width is not None and header.num_bytes != width * math.prod(header.shape):
            raise ValueError(f"{name} has {header.num_bytes} bytes for a shape of {list(header.shape)}")
        found[name] = header
        end = max(end, begin + stop)
    return found, end
