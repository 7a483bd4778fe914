"""Figures of one update: added up where they arise, and made into means over all ranks once.

Shape letters: B answers, A answer tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.online.advantages import SumOverRanks


class MetricSums:
    """A sum and a count per name. Every rank must add the same names before `means`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Count all of `values` (any shape), or those that `mask` marks."""
        values = values.detach().double()
        weights = torch.ones_like(values) if mask is None else mask.double()
        pair = torch.stack([(values * weights).sum(), weights.sum()])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, sum_over_ranks: SumOverRanks) -> dict[str, float]:
        """Name -> mean over everything that all ranks added; one reduction for all names."""
        names = sorted(self._sums)
        totals = sum_over_ranks(torch.stack([self._sums[name] for name in names])).tolist()
        return {name: total / count for name, (total, count) in zip(names, totals, strict=True)}
