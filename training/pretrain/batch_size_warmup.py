"""The batch-size warm-up: how many sequences each optimizer step has, and which samples those are.

Small batches teach more per token at the start of a run (McCandlish et al. 2018); GPT-3 grew its batch over the first
billions of tokens. A plan is a pure function of the step, so a resumed run, or a run on other workers, follows the same
plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class BatchPlan:
    """Step s has `batch_size(s)` sequences, from sample `first_sample(s)` on."""

    global_batch_size: int  # sequences per step, from the end of the warm-up on
    start: int | None = None  # sequences of the first step; None: no warm-up
    increment: int = 1  # sequences added at a time
    samples: int = 0  # after so many samples the batch has its full size; the increments share them evenly

    def batch_size(self, step: int) -> int:
        """Sequences of step `step`."""
        for size, first, count in self._stages:
            if step < first + count:
                return size
        return self.global_batch_size

    def first_sample(self, step: int) -> int:
        """How many samples the steps before `step` have together."""
        total = 0
        for size, first, count in self._stages:
            if step < first + count:
                return total + (step - first) * size
            total += size * count
        return total + (step - self._warmup_steps()) * self.global_batch_size

    def steps_for(self, samples: int) -> int:
        """The fewest steps that together have at least `samples` samples."""
        low, high = 0, -(-samples // (self.start or self.global_batch_size))
        while low < high:
            middle = (low + high) // 2
            if self.first_sample(middle) >= samples:
                high = middle
            else:
                low = middle + 1
        return low

    def sizes(self) -> list[int]:
        """All batch sizes of the plan, in order."""
        return [*(size for size, _, _ in self._stages), self.global_batch_size]

    @cached_property
    def _stages(self) -> list[tuple[int, int, int]]:
        """(sequences per step, first step, steps) of each size below the full one."""
        if self.start is None:
            return []
        sizes = range(self.start, self.global_batch_size, self.increment)
        stages, first = [], 0
        for number, size in enumerate(sizes):
            # Shares by difference of cumulated ones, so that rounding never adds up.
            share = (number + 1) * self.samples // len(sizes) - number * self.samples // len(sizes)
            count = max(1, -(-share // size))
            stages.append((size, first, count))
            first += count
        return stages

    def _warmup_steps(self) -> int:
        return sum(count for _, _, count in self._stages)
