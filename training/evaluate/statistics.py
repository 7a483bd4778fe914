"""Intervals of figures and of differences between models, from one number per item of an evaluation.

A figure is a ratio: the sum of the items' numerators by that of their denominators. So an accuracy (right by 1), a loss
per token (nats by tokens) and bits per byte are one thing. Items that share a prompt are no independent evidence: they
form a cluster, and clusters are what is resampled.

- Proportions (0 or 1 by 1): Wilson's interval (1927), with the effective sample size of the clusters' variance and
  Student's quantile in place of the normal one (Dean and Pagano 2015, "Evaluating confidence interval methods for
  binomial proportions in clustered surveys"). It stays inside [0, 1], and is right where all items are right.
- All else: the percentile bootstrap (Efron 1979), widened as Student's t is wider than the normal distribution
  (Hesterberg 2015, "What Teachers Should Know about the Bootstrap", section 5.3.2), since it is too narrow for few
  clusters.
- Two models on the same items: the same resampled clusters for both, so what the items have in common drops out.
  p is the two-sided bootstrap's, or McNemar's exact one (1947) where items are right or wrong and independent.

Shape letters: N items, C clusters, M models, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
NUM_RESAMPLES = 2000
_MAX_CLUSTERS = 4096  # that are resampled; of more, some are taken together
_CHUNK = 1 << 22  # numbers of a block of resamples in memory


@dataclass(frozen=True)
class Interval:
    """Where the true value lies with the confidence asked for."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One model minus another on the items that both have."""

    value: float
    interval: Interval | None  # None for fewer than two clusters
    p: float | None
    num_items: int


@dataclass(frozen=True)
class ItemValues:
    """One figure of one model, item by item. Items of one cluster are not independent of one another."""

    items: tuple[str, ...]  # [N] distinct
    clusters: tuple[str, ...]  # [N]
    numerators_N: Floats
    denominators_N: Floats

    @property
    def value(self) -> float:
        """The figure itself; nan where the denominators sum to 0."""
        total = float(self.denominators_N.sum())
        return float(self.numerators_N.sum()) / total if total else math.nan

    @property
    def is_proportion(self) -> bool:
        """Whether each item is right or wrong and counts once."""
        return bool(np.all(self.denominators_N == 1) and np.all((self.numerators_N == 0) | (self.numerators_N == 1)))

    @property
    def is_share(self) -> bool:
        """Whether each item is between wrong and right, ties among them, and counts once."""
        numerators_N = self.numerators_N
        return bool(np.all(self.denominators_N == 1) and np.all((numerators_N >= 0) & (numerators_N <= 1)))

    @property
    def is_clustered(self) -> bool:
        """Whether some items share a cluster."""
        return len(set(self.clusters)) < len(self.clusters)

    def only(self, items: Sequence[str]) -> ItemValues:
        """These items alone, in this order."""
        place = {item: n for n, item in enumerate(self.items)}
        rows = [place[item] for item in items]
        clusters = tuple(self.clusters[row] for row in rows)
        return ItemValues(tuple(items), clusters, self.numerators_N[rows], self.denominators_N[rows])


def interval(values: ItemValues, *, confidence: float = 0.95, seed: int = 0) -> Interval | None:
    """The interval of a figure; None where fewer than two clusters leave nothing to estimate it from."""
    sums_C2 = _cluster_sums(values)
    if len(sums_C2) < 2 or not math.isfinite(values.value):
        return None
    if values.is_proportion:
        return _wilson(values, sums_C2, confidence)
    if values.is_share and not np.ptp(sums_C2[:, 0] / sums_C2[:, 1]):
        return _wilson(values, sums_C2, confidence)  # all items alike, such as ties: no certainty either
    resampled_B = _ratios(sums_C2[None], _resamples(len(sums_C2), seed))[:, 0]
    return _percentiles(resampled_B, len(sums_C2), confidence)


def difference(first: ItemValues, second: ItemValues, *, confidence: float = 0.95, seed: int = 0) -> Difference:
    """`first` minus `second`, over the items that both have. Raises `ValueError` where they have none in common."""
    theirs = set(second.items)
    shared = [item for item in first.items if item in theirs]
    if not shared:
        raise ValueError("the two models were measured on no item in common")
    first, second = first.only(shared), second.only(shared)
    if first.clusters != second.clusters:
        raise ValueError("the same items must be in the same clusters")
    value = first.value - second.value
    sums_MC2 = np.stack([_cluster_sums(first), _cluster_sums(second)])
    num_clusters = sums_MC2.shape[1]
    if num_clusters < 2 or not math.isfinite(value):
        return Difference(value, None, None, len(shared))
    are_proportions = first.is_proportion and second.is_proportion
    if are_proportions and not np.any(first.numerators_N != second.numerators_N):
        # No item differs, which shows only that few do: the interval is that of a share of which none was seen.
        none_seen = ItemValues(tuple(shared), first.clusters, np.zeros(len(shared)), np.ones(len(shared)))
        few = _wilson(none_seen, _cluster_sums(none_seen), confidence).high
        return Difference(0.0, Interval(-few, few), 1.0, len(shared))
    ratios_BM = _ratios(sums_MC2, _resamples(num_clusters, seed))
    differences_B = ratios_BM[:, 0] - ratios_BM[:, 1]
    if are_proportions and not first.is_clustered:
        p = mcnemar(first.numerators_N > 0, second.numerators_N > 0)
    else:
        p = _two_sided(differences_B)
    return Difference(value, _percentiles(differences_B, num_clusters, confidence), p, len(shared))


def mcnemar(first_N: npt.NDArray[np.bool_], second_N: npt.NDArray[np.bool_]) -> float:
    """Exact two-sided p that two models are right equally often, from the items that one alone has right."""
    from scipy.stats import binomtest

    only_first, only_second = int((first_N & ~second_N).sum()), int((~first_N & second_N).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def _cluster_sums(values: ItemValues) -> Floats:
    """[C, 2] numerators and denominators summed over each cluster, in order of appearance; 4,096 at most."""
    numbers: dict[str, int] = {}
    number_N = [numbers.setdefault(cluster, len(numbers)) for cluster in values.clusters]
    sums_C2 = np.zeros((len(numbers), 2))
    np.add.at(sums_C2[:, 0], number_N, values.numerators_N)
    np.add.at(sums_C2[:, 1], number_N, values.denominators_N)
    if len(numbers) <= _MAX_CLUSTERS:
        return sums_C2
    # Sums of clusters are clusters too, and fewer of them tell as much of an interval in less memory.
    fewer_C2 = np.zeros((_MAX_CLUSTERS, 2))
    np.add.at(fewer_C2, np.arange(len(numbers)) % _MAX_CLUSTERS, sums_C2)
    return fewer_C2


def _wilson(values: ItemValues, sums_C2: Floats, confidence: float) -> Interval:
    from scipy.stats import norm, t

    num_items, num_clusters = len(values.items), len(sums_C2)
    share = values.value
    # Variance of the ratio by linearisation, between clusters.
    residuals_C = sums_C2[:, 0] - share * sums_C2[:, 1]
    variance = num_clusters / (num_clusters - 1) * float((residuals_C**2).sum()) / num_items**2
    quantile = float(norm.ppf((1 + confidence) / 2))
    if not values.is_clustered:
        effective = float(num_items)
    else:
        effective = share * (1 - share) / variance if variance > 0 else float(num_clusters)
        quantile = float(t.ppf((1 + confidence) / 2, num_clusters - 1))
    scale = 1 + quantile**2 / effective
    middle = (share + quantile**2 / (2 * effective)) / scale
    half = quantile / scale * math.sqrt(share * (1 - share) / effective + quantile**2 / (4 * effective**2))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


@lru_cache(maxsize=4)
def _resamples(num_clusters: int, seed: int) -> npt.NDArray[np.int32]:
    """[B, C] how often each cluster is drawn, C draws with replacement. The same for the same arguments."""
    generator = np.random.default_rng([seed, num_clusters])
    rows = max(1, _CHUNK // num_clusters)
    parts = []
    for start in range(0, NUM_RESAMPLES, rows):
        count = min(rows, NUM_RESAMPLES - start)
        drawn = generator.integers(num_clusters, size=(count, num_clusters))
        flat = (drawn + np.arange(count)[:, None] * num_clusters).ravel()
        parts.append(np.bincount(flat, minlength=count * num_clusters).reshape(count, num_clusters))
    return np.concatenate(parts).astype(np.int32)


def _ratios(sums_MC2: Floats, counts_BC: npt.NDArray[np.int32]) -> Floats:
    """[B, M] the figure of each model in each resample."""
    totals_MB2 = counts_BC.astype(np.float64) @ sums_MC2
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios_MB = totals_MB2[..., 0] / totals_MB2[..., 1]
    return np.asarray(ratios_MB.T, dtype=np.float64)


def _percentiles(resampled_B: Floats, num_clusters: int, confidence: float) -> Interval:
    from scipy.stats import norm, t

    finite = resampled_B[np.isfinite(resampled_B)]
    # The bootstrap's spread is that of a variance by C instead of C - 1, and its tails are normal ones.
    quantile = t.ppf((1 + confidence) / 2, num_clusters - 1) * math.sqrt(num_clusters / (num_clusters - 1))
    tail = float(norm.cdf(-quantile))
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _two_sided(differences_B: Floats) -> float:
    below, above = int((differences_B <= 0).sum()), int((differences_B >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(differences_B) + 1))
