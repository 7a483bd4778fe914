"""Held-out measures of a language model: loss, perplexity, bits per byte, and the unigram entropy it must beat.

`heldout_loss` measures one set of samples. `losses_by_source` measures several, each source of the data apart, and
`source_figures` says what is logged of them.

Shape letters: B samples of a batch, T the sequence length, V the vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.sampler import IGNORE_INDEX, Batch, Sampler
from training.token_losses import token_losses_sum


@dataclass(frozen=True)
class HeldoutLoss:
    """The summed loss over held-out tokens and how many there were, over all ranks."""

    loss_sum: float  # nats
    num_tokens: int
    num_bytes: int | None = None  # of text that those tokens stand for; None where the tokenizer doesn't tell

    @property
    def mean(self) -> float:
        """Nats per token; nan where there was none to predict."""
        return self.loss_sum / self.num_tokens if self.num_tokens else math.nan

    @property
    def perplexity(self) -> float:
        """How many tokens the model is as unsure between as if they were equally likely."""
        return math.exp(min(self.mean, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """Compression of the text by the model: comparable between tokenizers, as loss per token is not."""
        return self.loss_sum / math.log(2) / self.num_bytes if self.num_bytes else None

    def __add__(self, other: HeldoutLoss) -> HeldoutLoss:
        num_bytes = None if self.num_bytes is None or other.num_bytes is None else self.num_bytes + other.num_bytes
        return HeldoutLoss(self.loss_sum + other.loss_sum, self.num_tokens + other.num_tokens, num_bytes)


def model_inputs(batch: Batch, device: torch.device) -> dict[str, Any]:
    """What a Hugging Face causal LM takes of a batch. Positions that start over keep attention inside documents."""
    inputs = {"input_ids": on_device(batch.input_ids_BT, device), "use_cache": False}
    if batch.position_ids_BT is not None:
        inputs["position_ids"] = on_device(batch.position_ids_BT, device)
    return inputs


def on_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor there; on its way to a GPU, nobody waits for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@torch.no_grad()
def heldout_loss(
    model: Callable[..., Any],
    sampler: Sampler,
    *,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    all_sum: Callable[[Tensor], None] = lambda tensor: None,
    max_samples: int | None = None,
    token_bytes_V: npt.NDArray[np.int64] | None = None,
    beat: Callable[[str], None] = lambda doing: None,
) -> HeldoutLoss:
    """The loss of `model` on one pass over `sampler` (its first `max_samples`), each token weighing the same.

    The ranks take samples in turn, and all make the same number of forward passes, since ZeRO-3 needs that. `all_sum`
    adds a tensor up over the ranks, in place. With `token_bytes_V` (see `token_bytes`) the text's bytes are counted
    too. `beat` is told of each pass.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, tokens, bytes
    per_pass = batch_size * world_size
    num_samples = sampler.num_samples if max_samples is None else min(max_samples, sampler.num_samples)
    for first in range(0, num_samples, per_pass):
        beat("held-out loss")
        numbers = np.arange(batch_size) * world_size + first + rank
        batch = sampler.batch(np.where(numbers < num_samples, numbers, -1))
        labels = on_device(batch.labels_BT, device)
        logits_BTV = model(**model_inputs(batch, device)).logits
        totals[0] += token_losses_sum(logits_BTV, labels)
        totals[1] += (labels != IGNORE_INDEX).sum()
        if token_bytes_V is not None:
            totals[2] += int(token_bytes_V[batch.labels_BT[batch.labels_BT != IGNORE_INDEX]].sum())
    all_sum(totals)
    return HeldoutLoss(float(totals[0]), int(totals[1]), int(totals[2]) if token_bytes_V is not None else None)


def losses_by_source(
    samplers: Mapping[str, Sampler],
    loss_of: Callable[[Sampler, int | None], HeldoutLoss],
    *,
    max_tokens: int | None = None,
) -> dict[str, HeldoutLoss]:
    """Each source's loss by `loss_of(sampler, max_samples)`; `max_tokens` in all are dealt out by the sources' sizes.

    Every source is measured on one sample at least.
    """
    total = sum(sampler.num_samples for sampler in samplers.values())
    measured = {}
    for source, sampler in samplers.items():
        max_samples = None
        if max_tokens is not None:
            max_samples = max(1, sampler.num_samples * (max_tokens // sampler.sequence_length) // total)
        measured[source] = loss_of(sampler, max_samples)
    return measured


def source_figures(measured: Mapping[str, HeldoutLoss]) -> dict[str, Any]:
    """`heldout_loss`, `heldout_perplexity` and `heldout_bits_per_byte` of all sources together.

    Where there are several, each source's own follow under the same names with "/<source>" behind.
    """
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


def unigram_entropy(shards: Iterable[npt.NDArray[Any]]) -> float:
    """Entropy in nats of the tokens of `shards`, read one after another, under their own frequencies.

    This is what a model would lose per token that knows nothing but how often each token occurs in this very text. A
    held-out loss below it was earned by looking at context.
    """
    counts = _token_counts(shards)
    fractions = counts[counts > 0] / counts.sum()
    return float(-(fractions * np.log(fractions)).sum())


def token_bytes(tokenizer_file: Path, vocab_size: int) -> npt.NDArray[np.int64] | None:
    """[V] bytes of text that each of `vocab_size` ids stands for. None where the tokenizer is not byte-level BPE.

    Byte-level BPE writes each byte as one character, so a token has as many bytes as characters. Special
    tokens stand for none.
    """
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    if (content.get("decoder") or {}).get("type") != "ByteLevel" or content["model"]["type"] != "BPE":
        return None
    lengths_V = np.zeros(vocab_size, np.int64)
    for token, index in content["model"]["vocab"].items():
        if index < vocab_size:
            lengths_V[index] = len(token)
    for added in content.get("added_tokens", ()):
        if added["id"] < vocab_size:
            lengths_V[added["id"]] = 0 if added["special"] else len(added["content"].encode())
    return lengths_V


def _token_counts(shards: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    counts = np.zeros(0, np.int64)
    for shard in shards:
        found = np.bincount(shard, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return counts
