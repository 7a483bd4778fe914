from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from training.feedback.encoded_labels import EncodedLabel
from training.post_training.config import KtoConfig
from training.post_training.kto import heldout_figures, kto_rows, moved_label


def test_the_area_counts_pairs_of_wanted_and_unwanted_answers() -> None:
    rng = np.random.default_rng(0)
    rewards, labels = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    pairs = [(up, down) for up in rewards[labels] for down in rewards[~labels]]
    expected = np.mean([1.0 if up > down else 0.5 if up == down else 0.0 for up, down in pairs])
    assert heldout_figures(rewards, labels.tolist())["heldout_label_auc"] == pytest.approx(expected)
    assert heldout_figures(rewards, [True] * 40) == {}


def test_the_distance_s_answers_are_those_of_the_pass_one_place_on() -> None:
    labels = [EncodedLabel([10 + n], [n, n], n % 2 == 0) for n in range(6)]
    rows = kto_rows(labels, [5, 4, 3, 2, 1, 0], micro_batch_size=3)
    assert [row["completion_ids"][0] for row in rows] == [5, 4, 3, 2, 1, 0]
    assert [row["KL_completion_ids"][0] for row in rows] == [3, 5, 4, 0, 2, 1]
    assert moved_label(rows[0], max_length=2).sequence == [15, 3]


def test_a_pass_of_one_answer_is_refused_where_the_distance_is_estimated() -> None:
    with pytest.raises(ValidationError, match="must be 2 at least"):
        KtoConfig(model="sft", preferences="pairs", micro_batch_size=1)
    KtoConfig(model="sft", preferences="pairs", micro_batch_size=1, loss_type="apo_zero_unpaired")
