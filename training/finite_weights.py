"""Finds weights that are no numbers: nan or infinite.

Such a model answers nothing, so no stage starts from one, and none exports one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

_MOST_NAMED = 3  # tensors that a message names


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """The names of the tensors that hold a nan or an infinity; it takes no memory beside them."""
    return [name for name, tensor in tensors if not _is_finite(tensor)]


def named_not_finite(names: list[str], of: int) -> str:
    """What a message says of such tensors, as "3 of 20 weights are nan or infinite (a, b, c)"."""
    shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    return f"{len(names)} of {of} weights are nan or infinite ({shown})"


def bad_weights(directory: Path) -> str | None:
    """What is wrong with the safetensors files of a local model directory, as one clause; None where nothing is.

    They are read one tensor at a time.
    """
    count = 0

    def counted() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal count
        for name, tensor in _tensors(directory):
            count += 1
            yield name, tensor

    bad = not_finite(counted())
    return named_not_finite(bad, count) if bad else None


def _tensors(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (no dictionary)
                yield name, weights.get_tensor(name)


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() < 2:  # eight-bit formats know no minimum
        tensor = tensor.float()
    lowest, highest = torch.aminmax(tensor)  # a nan comes through both
    return bool(torch.isfinite(lowest) and torch.isfinite(highest))
