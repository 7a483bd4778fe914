"""Removal lists: hand-computed rows, reasons and survivors."""

import numpy as np

from cluster.contracts.records import doc_id
from dataprep.removals import Removals

# Three parts of 3, 0 and 4 documents. 0, 2 and 5 are the same text; 4 nearly is; 3 and 6 are near duplicates.
FIRST = np.array([0, 3, 3, 7])
REMOVALS = Removals(survivors_N=np.array([0, 1, 0, 3, 0, 0, 3]), exact_survivors_N=np.array([0, 1, 0, 3, 4, 0, 6]))


def test_rows_reasons_and_survivors_of_each_part() -> None:
    assert REMOVALS.table(FIRST, 0).to_pylist() == [{"row": 2, "reason": "exact_duplicate", "survivor": doc_id(0, 0)}]
    assert REMOVALS.table(FIRST, 1).num_rows == 0
    assert REMOVALS.table(FIRST, 2).to_pylist() == [
        {"row": 1, "reason": "near_duplicate", "survivor": doc_id(0, 0)},
        {"row": 2, "reason": "exact_duplicate", "survivor": doc_id(0, 0)},
        {"row": 3, "reason": "near_duplicate", "survivor": doc_id(2, 0)},
    ]


def test_counts_by_reason_and_group_sizes() -> None:
    assert REMOVALS.counts() == {"exact_duplicate": 2, "near_duplicate": 2}
    assert sorted(REMOVALS.group_sizes()) == [2, 4]
