"""Training losses that go wrong at chosen passes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from training import token_losses


@contextmanager
def poisoned_loss(factors: Mapping[int, float]) -> Iterator[None]:
    """Multiplies this process's training loss of the passes given, counted from here, by a factor."""
    honest, passes = token_losses.loss_sums, 0

    def loss_sums(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> token_losses.LossSums:
        sums = honest(logits_BTV, labels_BT)
        if not torch.is_grad_enabled():  # held-out measurements
            return sums
        nonlocal passes
        passes += 1
        return sums._replace(loss=sums.loss * factors.get(passes - 1, 1.0))

    token_losses.loss_sums = loss_sums
    try:
        yield
    finally:
        token_losses.loss_sums = honest
