"""Copies of live tensors in host memory, so that training can go on while the copies are written to a checkpoint.

A snapshot costs one pass over the tensors. The memory that it lies in is kept for the next one, because fresh pages
cost as much as the copy itself, and pinned ones far more: as many bytes as the largest snapshot, pinned where tensors
come from a GPU. Only one snapshot exists at a time, and taking the next overwrites it.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch

_IMMUTABLE = (str, bytes, int, float, complex, bool, type(None), type, torch.dtype, torch.device, torch.Size)


class HostBuffers:
    """The memory of one rank's snapshots."""

    def __init__(self) -> None:
        self._free: dict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)  # by bytes and pinning
        self._used: dict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)

    @property
    def num_bytes(self) -> int:
        """Host memory held, in bytes."""
        return sum(
            buffer.nbytes for kept in (self._free, self._used) for buffers in kept.values() for buffer in buffers
        )

    def begin(self) -> None:
        """Start a new snapshot; nobody may use the tensors of the one before it any longer."""
        for key, buffers in self._used.items():
            self._free[key].extend(buffers)
        self._used.clear()

    def copy(self, tree: Any) -> Any:
        """`tree` (nested dicts, lists and tuples) with CPU copies in place of its tensors, and all else copied too.

        Tensors that share memory (tied weights, views of a flat buffer) share the copy likewise, so the copy
        pickles to what the original would have.
        """
        memory: dict[int, tuple[torch.UntypedStorage, torch.Tensor]] = {}  # by address; holds the source alive
        copied = self._copied(tree, memory)
        if any(source.device.type == "cuda" for source, _ in memory.values()):
            torch.cuda.synchronize()
        return copied

    def _copied(self, tree: Any, memory: dict[int, tuple[torch.UntypedStorage, torch.Tensor]]) -> Any:
        if isinstance(tree, torch.Tensor):
            return self._copied_tensor(tree.detach(), memory)
        if isinstance(tree, _IMMUTABLE):
            return tree
        if isinstance(tree, dict):
            copied = copy.copy(tree)  # keeps the class, and what hangs on it: state dicts have a `_metadata`
            for key, value in tree.items():
                copied[key] = self._copied(value, memory)
            return copied
        if isinstance(tree, list):
            return [self._copied(value, memory) for value in tree]
        if isinstance(tree, tuple):
            values = [self._copied(value, memory) for value in tree]
            return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
        return copy.deepcopy(tree)

    def _copied_tensor(
        self, tensor: torch.Tensor, memory: dict[int, tuple[torch.UntypedStorage, torch.Tensor]]
    ) -> torch.Tensor:
        source = tensor.untyped_storage()
        if source.nbytes() == 0:
            return torch.empty_like(tensor, device="cpu")
        if source.data_ptr() not in memory:
            on_gpu = source.device.type == "cuda"
            buffer = self._buffer(source.nbytes(), on_gpu)
            whole = torch.empty(0, dtype=torch.uint8, device=source.device).set_(source)
            buffer.copy_(whole, non_blocking=on_gpu)
            memory[source.data_ptr()] = (source, buffer)
        buffer = memory[source.data_ptr()][1]
        return torch.empty(0, dtype=tensor.dtype).set_(
            buffer.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )

    def _buffer(self, num_bytes: int, pinned: bool) -> torch.Tensor:
        key = (num_bytes, pinned)
        free = self._free[key]
        buffer = free.pop() if free else torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
        self._used[key].append(buffer)
        return buffer
