"""What a reward model must beat: the accuracy of two judges that see only a pair's lengths, or only its words' counts.

Both judges are logistic regressions without an intercept on the difference of the two answers' features. That is the
Bradley-Terry model (1952) with a linear score. It is fitted to the training pairs with an L2 penalty, and measured on
the held-out ones. A pair whose answers have the same features is a tie and counts half.

The fit is Newton's method by hand, since it must be exact: scikit-learn is no dependency, and scipy's quasi-Newton
minimisers, which the tests compare with, end some 1e-4 away from the optimum.

Shape letters: P pairs, F features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def pair_accuracy(margins_P: npt.ArrayLike) -> float:
    """The share of pairs in which the chosen answer scores higher (margin above 0); ties count half."""
    margins = np.asarray(margins_P, dtype=np.float64)
    if margins.size == 0:
        raise ValueError("there are no pairs to measure on")
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def fit_differences(differences_PF: Floats, *, l2: float = 1.0, num_iterations: int = 50) -> Floats:
    """Weights w [F] that minimise sum_p log(1 + exp(-w.d_p)) + l2/2 |w|^2, by Newton's method.

    The problem is strictly convex. Where there are more features than pairs the step is solved among the
    pairs instead (w = D'a, the representer theorem), so the cost is min(P, F)^3.
    """
    used_F = differences_PF.any(axis=0)
    if not used_F.all():  # a feature that never differs gets no weight
        weights = np.zeros(differences_PF.shape[1])
        if used_F.any():
            weights[used_F] = fit_differences(differences_PF[:, used_F], l2=l2, num_iterations=num_iterations)
        return weights
    num_pairs, num_features = differences_PF.shape
    if num_features > num_pairs:
        # With D = U S V', any optimum lies in the row space: fit in its coordinates U S and map back.
        u, s, vt = np.linalg.svd(differences_PF, full_matrices=False)
        return vt.T @ fit_differences(u * s, l2=l2, num_iterations=num_iterations)
    weights = np.zeros(num_features)
    for _ in range(num_iterations):
        wrong_P = 1 / (1 + np.exp(np.clip(differences_PF @ weights, -500, 500)))
        gradient = l2 * weights - differences_PF.T @ wrong_P
        curvature = (differences_PF.T * (wrong_P * (1 - wrong_P))) @ differences_PF
        step = np.linalg.solve(curvature + l2 * np.eye(num_features), gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def length_accuracy(train_PF: Floats, heldout_PF: Floats) -> float:
    """Held-out accuracy of a judge that sees lengths only.

    Both arrays hold, per pair, the chosen answer's lengths (in words, characters, tokens...) minus the
    rejected one's. Features are scaled by their training spread.
    """
    scale = np.sqrt(np.mean(train_PF**2, axis=0))
    scale[scale == 0] = 1.0
    return pair_accuracy((heldout_PF / scale) @ fit_differences(train_PF / scale))


def bag_of_words_accuracy(
    train_pairs: Sequence[tuple[str, str]], heldout_pairs: Sequence[tuple[str, str]], *, max_words: int = 2000
) -> float:
    """Held-out accuracy of a judge that sees how often each word occurs, not where.

    Pairs are (chosen, rejected) texts. Words are cut at white space, case kept, so that punctuation and
    capitals count as evidence too; the `max_words` commonest of the training pairs are features.
    """
    counts: Counter[str] = Counter()
    for chosen, rejected in train_pairs:
        counts.update(chosen.split())
        counts.update(rejected.split())
    commonest = sorted(counts, key=lambda word: (-counts[word], word))[:max_words]
    vocabulary = {word: feature for feature, word in enumerate(commonest)}
    weights = fit_differences(_count_differences(train_pairs, vocabulary))
    return pair_accuracy(_count_differences(heldout_pairs, vocabulary) @ weights)


def _count_differences(pairs: Sequence[tuple[str, str]], vocabulary: dict[str, int]) -> Floats:
    differences_PF = np.zeros((len(pairs), len(vocabulary)))
    for row, (chosen, rejected) in enumerate(pairs):
        for text, sign in ((chosen, 1.0), (rejected, -1.0)):
            for word in text.split():
                if word in vocabulary:
                    differences_PF[row, vocabulary[word]] += sign
    return differences_PF
