"""Per-token estimators of KL(policy || reference) from samples of the policy, in nats.

Source: J. Schulman, "Approximating KL divergence" (2020), http://joschu.net/blog/kl-approx.html. With
r = reference probability / policy probability of the sampled token:

    k1 = -log r             unbiased, high variance, may be negative
    k2 = (log r)^2 / 2      biased, low variance, never negative; its gradient is the KL's, on policy
    k3 = (r - 1) - log r    unbiased, never negative; low variance near the reference, more than k1's far from it

Summed over the tokens of an answer, each estimates the KL of whole answers (the chain rule).

Shape letters: B answers, A answer tokens (padded).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def k1(logprobs_BA: Tensor, reference_logprobs_BA: Tensor) -> Tensor:
    """The log ratio itself, `[B, A]`."""
    return logprobs_BA - reference_logprobs_BA


def k2(logprobs_BA: Tensor, reference_logprobs_BA: Tensor) -> Tensor:
    """Half the squared log ratio, `[B, A]`."""
    return 0.5 * (logprobs_BA - reference_logprobs_BA).square()


def k3(logprobs_BA: Tensor, reference_logprobs_BA: Tensor) -> Tensor:
    """`expm1(log r) - log r`, `[B, A]`."""
    log_ratio_BA = reference_logprobs_BA - logprobs_BA
    return torch.expm1(log_ratio_BA) - log_ratio_BA


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
