"""Learning-rate schedules: the rate of one optimizer step, a pure function of its number.

Steps count from 0. Warm-up is linear and reaches the peak at step `warmup_steps - 1`; each schedule ends at
`min_lr` on its last step, `total_steps - 1`.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def warmup_fraction(step: int, warmup_steps: int) -> float:
    """How much of the peak rate is reached, in (0, 1]."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0


def cosine(step: int, *, lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> float:
    """Half a cosine from `lr` to `min_lr` after the warm-up (Loshchilov & Hutter 2017, eq. 5, one cycle)."""
    if step < warmup_steps:
        return lr * warmup_fraction(step, warmup_steps)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * _progress(step, warmup_steps, total_steps)))


def linear(step: int, *, lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> float:
    """A straight line from `lr` to `min_lr` after the warm-up."""
    if step < warmup_steps:
        return lr * warmup_fraction(step, warmup_steps)
    return lr + (min_lr - lr) * _progress(step, warmup_steps, total_steps)


def wsd(
    step: int, *, lr: float, min_lr: float, warmup_steps: int, total_steps: int, decay_fraction: float = 0.2
) -> float:
    """Warm-up, stable, decay: constant until the last `decay_fraction` of all steps, then `1 - sqrt` down.

    The form of Hägele et al. 2024 (arXiv:2405.18392, section 3); the stable part can be prolonged later.
    """
    decay_start = max(warmup_steps, total_steps - round(decay_fraction * total_steps))
    if step < warmup_steps:
        return lr * warmup_fraction(step, warmup_steps)
    if step < decay_start:
        return lr
    return min_lr + (lr - min_lr) * (1 - math.sqrt(_progress(step, decay_start, total_steps)))


def _progress(step: int, first: int, total_steps: int) -> float:
    """0 at step `first`, 1 at the last one."""
    return min(1.0, (step - first) / max(1, total_steps - 1 - first))


Schedule = Callable[..., float]
SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "linear": linear, "wsd": wsd}
