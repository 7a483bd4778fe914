"""Measures what a training step costs: its seconds and where they went, tokens per second, MFU and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import psutil
import torch


class Waiting(Protocol):
    """What batches come from: it knows how long it has been waited for."""

    wait_s: float


class StepMeter:
    """Times steps from `start` to `finish`, and adds up seconds under `seconds`: train, data, checkpoints.

    `flops_per_token` and `peak_flops` (FLOP/s of all ranks together) as in `training.pretrain.flops`.
    """

    def __init__(self, *, flops_per_token: float, peak_flops: float, device: torch.device) -> None:
        self._flops_per_token, self._peak_flops, self._device = flops_per_token, peak_flops, device
        self._process = psutil.Process()
        self.seconds = {"train": 0.0, "data": 0.0, "checkpoints": 0.0}
        self._started, self._waited, self._stall_s = 0.0, 0.0, 0.0

    def start(self, batches: Waiting) -> None:
        """A step begins."""
        self._waited = batches.wait_s
        self._started = time.perf_counter()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Times a checkpoint between two steps, shown with the next of them."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stall_s = time.perf_counter() - started
            self.seconds["checkpoints"] += self._stall_s

    def finish(self, batches: Waiting, *, num_tokens: int) -> dict[str, Any]:
        """A step of `num_tokens` over all ranks has ended: its figures for the log."""
        seconds = time.perf_counter() - self._started
        waited = batches.wait_s - self._waited
        self.seconds["train"] += seconds
        self.seconds["data"] += waited
        stall_s, self._stall_s = self._stall_s, 0.0
        return {
            "step_s": seconds,
            "tokens_per_s": num_tokens / seconds,
            "mfu": self._mfu(num_tokens, seconds),
            "data_wait_s": waited,
            "checkpoint_stall_s": stall_s,  # before this step
            "memory_gib": self._memory_gib(),
        }

    def summary(self, num_tokens: int) -> dict[str, Any]:
        """The run's figures; `num_tokens` were trained on in all."""
        train = max(self.seconds["train"], 1e-9)
        return {
            "tokens_per_s": num_tokens / train,
            "mfu": self._mfu(num_tokens, train),
            "data_wait_fraction": self.seconds["data"] / train,
            "checkpoint_stall_fraction": self.seconds["checkpoints"] / (train + self.seconds["checkpoints"]),
            "memory_gib": self._memory_gib(),
        }

    def _mfu(self, num_tokens: int, seconds: float) -> float:
        return self._flops_per_token * num_tokens / seconds / self._peak_flops

    def _memory_gib(self) -> float:
        """The device's peak allocation, or the process's memory on a CPU."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return float(self._process.memory_info().rss / 2**30)
