"""Held-out loss, perplexity and bits per byte, of each source and of all together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from training.data.sampler import Sampler
from training.inference.heldout import HeldoutLoss

LossOf = Callable[[Sampler, int | None], HeldoutLoss]  # (samples, how many of them at most)


def measure(
    samplers: Mapping[str, Sampler], loss_of: LossOf, *, max_tokens: int | None = None
) -> dict[str, HeldoutLoss]:
    """Each source's loss by `loss_of`; `max_tokens` in all are dealt out by the sources' sizes."""
    total = sum(sampler.num_samples for sampler in samplers.values())
    measured = {}
    for source, sampler in samplers.items():
        share = None
        if max_tokens is not None:
            share = max(1, sampler.num_samples * (max_tokens // sampler.sequence_length) // total)
        measured[source] = loss_of(sampler, share)
    return measured


def figures(measured: Mapping[str, HeldoutLoss]) -> dict[str, Any]:
    """What is logged: `heldout_loss`, `heldout_perplexity`, `heldout_bits_per_byte`; and by source, after a slash."""
    whole = sum(measured.values(), HeldoutLoss(0.0, 0, 0))
    found: dict[str, Any] = {**_figures(whole, ""), "heldout_tokens": whole.num_tokens}
    if len(measured) > 1:
        for source, loss in measured.items():
            found.update(_figures(loss, f"/{source}"))
    return found


def _figures(loss: HeldoutLoss, suffix: str) -> dict[str, float]:
    found = {f"heldout_loss{suffix}": loss.mean, f"heldout_perplexity{suffix}": loss.perplexity}
    if loss.bits_per_byte is not None:
        found[f"heldout_bits_per_byte{suffix}"] = loss.bits_per_byte
    return found
