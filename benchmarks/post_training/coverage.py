"""Bar 8: how often 95% intervals of an evaluation hold the truth, over simulated evaluations whose truth is known.

Each kind of figure that the evaluate stage reports is simulated with items as it has them: accuracies with one item or
several to a prompt, losses of answers of many lengths, rewards, and differences of two models that find the same items
hard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.figures import Figure
from training.evaluate.items import values_of
from training.evaluate.statistics import Interval, ItemValues, difference, interval

Generator = np.random.Generator
NUM_SIMULATIONS = 1000


def _accuracy(generator: Generator) -> Interval | None:
    """300 items, 70% of which the model gets right."""
    right = generator.random(300) < 0.7
    return interval(values_of((str(n), str(n), float(value), 1.0) for n, value in enumerate(right)))


def _accuracy_by_prompt(generator: Generator) -> Interval | None:
    """4 items on each of 60 prompts, some of which are easy and some hard; 2 in 3 are right."""
    easy = generator.beta(2.0, 1.0, 60)
    right = generator.random((60, 4)) < easy[:, None]
    return interval(
        values_of((f"{p}.{n}", str(p), float(value), 1.0) for p, row in enumerate(right) for n, value in enumerate(row))
    )


def _loss(generator: Generator) -> Interval | None:
    """128 answers of 5 to 60 tokens, each of its own difficulty; 2 nats per token."""
    return interval(_losses(generator.integers(5, 60, 128), generator.gamma(4.0, 0.5, 128)))


def _skewed(generator: Generator) -> Interval | None:
    """64 numbers with a long tail, such as lengths of answers; their mean is 1."""
    return interval(
        values_of((str(n), str(n), float(value), 1.0) for n, value in enumerate(generator.exponential(1, 64)))
    )


def _accuracy_difference(generator: Generator) -> Interval | None:
    """200 items that mostly both models get right or both wrong: 0.7 and 0.6."""
    hard = generator.random(200)
    other = np.where(generator.random(200) < 0.6, hard, generator.random(200))
    sides = [
        values_of((str(n), str(n), float(value), 1.0) for n, value in enumerate(right))
        for right in (hard < 0.7, other < 0.6)
    ]
    return difference(*sides).interval


def _loss_difference(generator: Generator) -> Interval | None:
    """100 answers of 5 to 60 tokens; a model that loses 0.1 nats a token more."""
    lengths, hard = generator.integers(5, 60, 100), generator.gamma(4.0, 0.5, 100)
    return difference(_losses(lengths, hard + generator.normal(0.1, 0.3, 100)), _losses(lengths, hard)).interval


SIMULATIONS: Mapping[str, tuple[Callable[[Generator], Interval | None], float]] = {
    "accuracy": (_accuracy, 0.7),
    "accuracy by prompt": (_accuracy_by_prompt, 2 / 3),
    "loss": (_loss, 2.0),
    "skewed mean": (_skewed, 1.0),
    "difference of accuracies": (_accuracy_difference, 0.1),
    "difference of losses": (_loss_difference, 0.1),
}
"""Kind of figure -> (one simulated evaluation's interval, the truth)."""


def coverage(name: str, num_simulations: int = NUM_SIMULATIONS) -> float:
    """The share of simulated evaluations of one kind whose interval holds the truth."""
    simulate, truth = SIMULATIONS[name]
    held = 0
    for number in range(num_simulations):
        found = simulate(np.random.default_rng([8, number]))
        held += found is not None and found.low <= truth <= found.high
    return held / num_simulations


def figures(num_simulations: int = NUM_SIMULATIONS) -> list[Figure]:
    """The coverage that is furthest from 95%; the bar is 93 to 97%."""
    found = {name: coverage(name, num_simulations) for name in SIMULATIONS}
    furthest = max(found, key=lambda name: abs(found[name] - 0.95))
    note = f"{num_simulations} simulated evaluations each: " + ", ".join(f"{n} {c:.3f}" for n, c in found.items())
    return [
        Figure("8", f"coverage of 95% intervals: {furthest}, the lowest asked", "share", found[furthest], 0.93,
               ours=found[furthest], note=note, module="post_training"),
        Figure("8b", f"coverage of 95% intervals: {furthest}, the highest asked", "share", found[furthest], 0.97,
               at_most=True, ours=found[furthest], module="post_training"),
    ]  # fmt: skip


def _losses(
    lengths: np.ndarray[tuple[int], np.dtype[np.int64]], per_token: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> ItemValues:
    return values_of(
        (str(n), str(n), float(length * loss), float(length))
        for n, (length, loss) in enumerate(zip(lengths, per_token, strict=True))
    )
