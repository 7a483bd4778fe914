"""Ids are reversible and the split is a property of the prompt alone."""

import numpy as np
import pytest

from cluster.contracts.records import ROW_BITS, doc_id, is_heldout, shard_and_row


def test_doc_id_is_reversible_and_fits_63_bits() -> None:
    for shard, row in [(0, 0), (1, 5), (2**32 - 1, 2**ROW_BITS - 1)]:
        identifier = doc_id(shard, row)
        assert 0 <= identifier < 2**63
        assert shard_and_row(identifier) == (shard, row)


def test_doc_ids_sort_by_shard_then_row() -> None:
    ids = [doc_id(s, r) for s in range(3) for r in range(4)]
    assert ids == sorted(ids)


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        doc_id(0, 2**ROW_BITS)


def test_case_and_white_space_do_not_change_the_side() -> None:
    for i in range(50):
        prompt = f"What is number {i}?"
        assert is_heldout(prompt, fraction=0.5) == is_heldout(f"  what IS\tnumber {i}? ", fraction=0.5)


def test_about_the_asked_fraction_is_held_out_and_the_seed_changes_which() -> None:
    sides = np.array([[is_heldout(f"p{i}", fraction=0.2, seed=s) for i in range(5000)] for s in (0, 1)])
    assert np.allclose(sides.mean(axis=1), 0.2, atol=4 * np.sqrt(0.2 * 0.8 / 5000))
    assert (sides[0] != sides[1]).mean() > 0.2


def test_nothing_and_everything_can_be_held_out() -> None:
    assert not any(is_heldout(f"p{i}", fraction=0.0) for i in range(100))
    assert all(is_heldout(f"p{i}", fraction=1.0) for i in range(100))
