"""Held-out loss, perplexity and bits per byte, of each source and of all together.

The sources are the index's: the input files, or a mixture's. Those with most held-out tokens are told apart, the rest
are measured as "other".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from cluster.contracts.tokens import TokenShard, open_shards, read_token_index
from training.heldout import HeldoutLoss
from training.sampler import TokenSampler

MOST_SOURCES = 8
OTHER = "other"
LossOf = Callable[[TokenSampler, int | None], HeldoutLoss]  # (samples, how many of them at most)


def open_heldout(tokens_uri: str, *, sequence_length: int, within_documents: bool) -> dict[str, TokenSampler]:
    """The held-out documents of each source, most tokens first; empty where none is held out."""
    entries = [entry for entry in read_token_index(tokens_uri) if entry.heldout]
    shards = open_shards(tokens_uri, heldout=True)
    sizes: dict[str, int] = defaultdict(int)
    for entry in entries:
        sizes[entry.source] += entry.num_tokens
    named = sorted(sizes, key=lambda source: (-sizes[source], source))[:MOST_SOURCES]
    grouped: dict[str, list[TokenShard]] = {source: [] for source in named}
    for entry, shard in zip(entries, shards, strict=True):
        grouped.setdefault(entry.source if entry.source in named else OTHER, []).append(shard)
    return {
        source: TokenSampler(
            [shard.tokens_T for shard in members],
            sequence_length,
            None,
            offsets=[shard.offsets for shard in members] if within_documents else None,
        )
        for source, members in grouped.items()
        if sum(len(shard.tokens_T) for shard in members) >= 2
    }


def measure(
    samplers: Mapping[str, TokenSampler], loss_of: LossOf, *, max_tokens: int | None = None
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
