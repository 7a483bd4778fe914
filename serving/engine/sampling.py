"""From logits to tokens: temperature, top-k, top-p, and draws by the inverse CDF that a seed repeats.

A draw is a pure function of (seed, position in the answer) and the row's logits. So an answer depends on the weights,
the prompt and the seed, and not on the rows that it happened to share a batch with (up to float noise: a batch of
another size sums in another order). `torch.multinomial` can't do that, and is slower besides.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cluster.contracts.hashing import splitmix64
from cluster.contracts.records import SamplingParams

_MASK_64 = (1 << 64) - 1


def uniforms(seeds_B: Sequence[int], positions_B: Sequence[int]) -> npt.NDArray[np.float64]:
    """One number in (0, 1) per row, a fixed function of its seed and position.

    It is the output at that position of a SplitMix64 generator (`cluster/contracts/hashing.py`). The generator's seed
    is the first output of the one that has the row's seed, so that neighbouring seeds don't give shifted copies of one
    stream. The top 32 bits are used, at the middle of their interval, so neither 0 nor 1 ever comes out.
    """
    seeds = np.array([seed & _MASK_64 for seed in seeds_B], dtype=np.uint64)
    positions = np.array(positions_B, dtype=np.uint64)
    bits = splitmix64(splitmix64(seeds, np.uint64(0)), positions)
    return ((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2.0**32


def sample_tokens(
    logits_BV: torch.Tensor, uniforms_B: torch.Tensor, sampling_B: Sequence[SamplingParams]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row.

    Args:
        logits_BV: any float dtype; computed with in fp32.
        uniforms_B: float64 in (0, 1), see `uniforms`; unused in rows with temperature 0.
        sampling_B: the row's temperature, top_k and top_p. Order as elsewhere: temperature, then top-k, then top-p
            of what top-k left.

    Returns:
        tokens_B (int64) and logprobs_B (fp32): natural log of the token's probability under the temperature alone
        (temperature 1 in greedy rows), which is what a trainer recomputes from its own logits.
    """
    device = logits_BV.device
    temperatures = [s.temperature for s in sampling_B]
    scaled_BV = logits_BV.float()
    if any(t not in (0.0, 1.0) for t in temperatures):
        divisors_B = torch.tensor([t if t > 0 else 1.0 for t in temperatures], device=device)
        scaled_BV = scaled_BV / divisors_B[:, None]
    logprobs_BV = torch.log_softmax(scaled_BV, dim=-1)

    if all(t == 0 for t in temperatures):
        tokens_B = scaled_BV.argmax(dim=-1)
    else:
        probs_BV = logprobs_BV.exp()
        limited = [i for i, s in enumerate(sampling_B) if s.temperature > 0 and (s.top_k > 0 or s.top_p < 1)]
        if limited:
            rows = torch.tensor(limited, device=device)
            probs_BV[rows] = restrict(
                probs_BV[rows],
                top_k_B=torch.tensor([sampling_B[i].top_k for i in limited], device=device),
                top_p_B=torch.tensor([sampling_B[i].top_p for i in limited], device=device),
            )
        tokens_B = inverse_cdf(probs_BV, uniforms_B.to(device))
        if 0.0 in temperatures:
            greedy_B = torch.tensor([t == 0 for t in temperatures], device=device)
            tokens_B = torch.where(greedy_B, scaled_BV.argmax(dim=-1), tokens_B)
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None])[:, 0]


def inverse_cdf(probs_BV: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    """The first token at which the cumulative sum passes `uniform * total`; never one of probability 0.

    Rows need not sum to 1. Sums run in fp64: in fp32 a vocabulary of 150,000 loses its tail.
    """
    cdf_BV = probs_BV.cumsum(dim=-1, dtype=torch.float64)
    targets_B1 = (uniforms_B * cdf_BV[:, -1])[:, None]
    return torch.searchsorted(cdf_BV, targets_B1, right=True)[:, 0].clamp_(max=probs_BV.shape[1] - 1)


def restrict(probs_BV: torch.Tensor, *, top_k_B: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """Zero all but the k likeliest tokens, then all but the fewest of those that hold a share p of what is left.

    `top_k_B` 0 and `top_p_B` 1 mean no limit. The token that crosses p is kept, so at least one always is; of
    equally likely tokens the lower id goes first. Not renormalised.
    """
    sorted_BV, order_BV = torch.sort(probs_BV, dim=-1, descending=True, stable=True)
    ranks_V = torch.arange(probs_BV.shape[1], device=probs_BV.device)
    unlimited = probs_BV.shape[1]
    k_B1 = torch.where(top_k_B > 0, top_k_B, unlimited)[:, None]
    sorted_BV = sorted_BV.masked_fill(ranks_V >= k_B1, 0.0)
    before_BV = sorted_BV.cumsum(dim=-1, dtype=torch.float64) - sorted_BV
    threshold_B1 = (top_p_B.double() * sorted_BV.sum(dim=-1, dtype=torch.float64))[:, None]
    keep_BV = (before_BV < threshold_B1) | (top_p_B >= 1)[:, None]
    keep_BV[:, 0] = True
    return torch.zeros_like(probs_BV).scatter_(1, order_BV, sorted_BV * keep_BV)
