"""Weights on the wire: a state dict as a few large byte buffers instead of many small tensors.

One remote call per tensor costs more than the copy itself, and one buffer of everything needs twice the memory. A
bucket is in between: a NumPy byte array, which the object store shares without copying, and a table of what lies where
in it. It holds bytes because bf16 has no NumPy dtype.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_ALIGNMENT = 64  # bytes; a tensor viewed at an odd offset would be refused

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.bool)
}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in a bucket."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes
    size: int  # bytes


@dataclass(frozen=True)
class Bucket:
    """Some of a model's weights."""

    entries: tuple[TensorEntry, ...]
    data: npt.NDArray[np.uint8]


def pack(state: Mapping[str, torch.Tensor], *, bucket_bytes: int) -> Iterator[Bucket]:
    """Buckets of up to `bucket_bytes` each; a larger tensor has one to itself. Tensors may be on any device."""
    pending: list[tuple[TensorEntry, torch.Tensor]] = []
    offset = 0
    for name, tensor in state.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ValueError(f"weight {name!r} has dtype {dtype}; buckets hold {sorted(_DTYPES)}")
        size = tensor.numel() * tensor.element_size()
        if pending and offset + size > bucket_bytes:
            yield _filled(pending, offset)
            pending, offset = [], 0
        pending.append((TensorEntry(name, dtype, tuple(tensor.shape), offset, size), tensor))
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    if pending:
        yield _filled(pending, offset)


def unpack(bucket: Bucket) -> dict[str, torch.Tensor]:
    """The bucket's tensors as views on its bytes: copy from them, never write to them."""
    with warnings.catch_warnings():
        # A bucket out of the object store is read-only, which torch can't express; nothing writes to it here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        data = torch.from_numpy(bucket.data)
    return {
        entry.name: data[entry.offset : entry.offset + entry.size].view(_DTYPES[entry.dtype]).reshape(entry.shape)
        for entry in bucket.entries
    }


def _filled(pending: list[tuple[TensorEntry, torch.Tensor]], size: int) -> Bucket:
    data = torch.zeros(max(size, 1), dtype=torch.uint8)  # torch views nothing in an array of no bytes
    for entry, tensor in pending:
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        data[entry.offset : entry.offset + entry.size] = flat.view(torch.uint8)
    return Bucket(tuple(entry for entry, _ in pending), data.numpy())
