"""What a reward model makes of held-out feedback: accuracy, also by subset, calibration, agreement with rankings.

Shape letters: P pairs, N answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.conversations.prompt_answers import words
from training.feedback.encoded_pairs import EncodedPairs
from training.feedback.pair_baselines import bag_of_words_accuracy, length_accuracy, pair_accuracy
from training.feedback.rows import PreferencePair, answer_text

Floats = npt.NDArray[np.float64]
NUM_BINS = 10
_MAX_SUBSETS = 50  # that a table shows: the largest ones


def calibration(margins_P: Floats) -> tuple[list[dict[str, float]], float]:
    """(bins, expected calibration error) of the probability with which the model prefers the answer that it prefers.

    A pair's probability is sigmoid(|margin|), from 0.5 to 1, and it is right where the margin is above 0. The bins are
    of equal width; each has the mean probability of its pairs, the share that is right, and how many there are. The
    error is the mean distance of the two over the pairs (Guo et al., 2017, eq. 3).
    """
    predicted_P = 1 / (1 + np.exp(-np.abs(margins_P)))
    right_P = (margins_P > 0) + 0.5 * (margins_P == 0)
    bin_P = np.minimum(((predicted_P - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    error = 0.0
    for number in sorted(set(bin_P.tolist())):
        inside_P = bin_P == number
        predicted, observed = float(predicted_P[inside_P].mean()), float(right_P[inside_P].mean())
        bins.append({"predicted": predicted, "observed": observed, "pairs": int(inside_P.sum())})
        error += abs(predicted - observed) * float(inside_P.mean())
    return bins, error


def accuracy_by_subset(rows: Sequence[PreferencePair], margins_P: Floats) -> list[dict[str, Any]]:
    """The accuracy on each topic and on each source, where there are several, the largest first."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row, margin in zip(rows, margins_P.tolist(), strict=True):
        groups["topic", row.get("topic", "")].append(margin)
        groups["source", row["source_name"]].append(margin)
    found = []
    for (what, name), margins in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        num_named = sum(other == what for other, _ in groups)
        if num_named > 1:
            found.append(
                {"subset": f"{what}: {name or 'none'}", "accuracy": pair_accuracy(margins), "pairs": len(margins)}
            )
    return found[:_MAX_SUBSETS]


def kendall_tau(rewards_K: Sequence[float], truth_K: Sequence[float]) -> float | None:
    """Kendall's tau of rewards with a true order, in which higher is better; None where all of the truth is tied.

    Of the pairs that differ in truth, (those in the same order - those in the other) / all. It is tau-a where neither
    has ties; a pair with equal rewards counts 0.
    """
    rewards, truth = np.asarray(rewards_K, np.float64), np.asarray(truth_K, np.float64)
    upper = np.triu_indices(len(truth), 1)
    signs = np.sign((truth[:, None] - truth[None, :])[upper])
    agreement = np.sign((rewards[:, None] - rewards[None, :])[upper]) * signs
    return float(agreement.sum() / np.abs(signs).sum()) if signs.any() else None


def baseline_accuracies(train: EncodedPairs, heldout: EncodedPairs) -> dict[str, float]:
    """Held-out accuracies of two judges that a reward model must beat: by lengths alone, and by words' counts alone."""
    texts = [
        [(answer_text(row["chosen"]), answer_text(row["rejected"])) for row in side.rows] for side in (train, heldout)
    ]
    return {
        "length_baseline_accuracy": length_accuracy(_length_differences(train), _length_differences(heldout)),
        "bag_of_words_baseline_accuracy": bag_of_words_accuracy(texts[0], texts[1]),
    }


def _length_differences(side: EncodedPairs) -> Floats:
    """[P, 3] how much longer the chosen answer is, in words, characters and tokens."""
    rows = []
    for row, pair in zip(side.rows, side.pairs, strict=True):
        chosen, rejected = answer_text(row["chosen"]), answer_text(row["rejected"])
        rows.append(
            (
                len(words(chosen)) - len(words(rejected)),
                len(chosen) - len(rejected),
                len(pair.chosen_ids) - len(pair.rejected_ids),
            )
        )
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
