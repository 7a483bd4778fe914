"""Removal lists: hand-computed rows, reasons and survivors, within a corpus and against an earlier one."""

from pathlib import Path

import numpy as np

from cluster.contracts.artifacts import Artifact, Manifest
from cluster.contracts.records import doc_id
from dataprep.dedupe.corpora import Corpora
from dataprep.dedupe.removals import EXACT, NEAR, Removals, best_survivors, grouped
from dataprep.dedupe.stage import _mixed_signatures
from tests.unit.dataprep.small_documents import write_documents

# Three parts of 3, 0 and 4 documents. 0, 2 and 5 are the same text; 4 nearly is; 3 and 6 are near duplicates.
LABELS = {EXACT: np.array([0, 1, 0, 3, 4, 0, 6]), NEAR: np.array([0, 1, 0, 3, 0, 0, 3])}


def corpora(root: Path, earlier: int = 0) -> Corpora:
    own = write_documents(root / "own", [["a", "b", "c"], [], ["d", "e", "f", "g"]])
    against = [write_documents(root / "earlier", [["x"] * earlier])] if earlier else []
    return Corpora.of(own, against)


def test_rows_reasons_and_survivors_of_each_part(tmp_path: Path) -> None:
    numbered = corpora(tmp_path)
    removals = Removals(numbered, LABELS, LABELS[NEAR])
    first, empty, last = (removals.table(shard_slice).to_pylist() for shard_slice in numbered.own)
    assert first == [{"row": 2, "reason": EXACT, "survivor": doc_id(0, 0), "corpus": 0}]
    assert empty == []
    assert last == [
        {"row": 1, "reason": NEAR, "survivor": doc_id(0, 0), "corpus": 0},
        {"row": 2, "reason": EXACT, "survivor": doc_id(0, 0), "corpus": 0},
        {"row": 3, "reason": NEAR, "survivor": doc_id(2, 0), "corpus": 0},
    ]


def test_the_reason_is_the_first_search_that_joins_a_row_to_its_survivor(tmp_path: Path) -> None:
    survivors = np.array([4, 1, 4, 3, 4, 4, 3])  # document 4, a near copy only, scores best
    table = Removals(corpora(tmp_path), LABELS, survivors).table(corpora(tmp_path).own[0])
    assert [(row["row"], row["reason"]) for row in table.to_pylist()] == [(0, NEAR), (2, NEAR)]


def test_survivors_in_an_earlier_corpus_are_named_by_its_own_numbers(tmp_path: Path) -> None:
    numbered = corpora(tmp_path, earlier=2)
    assert (numbered.own_first, numbered.num_documents) == (2, 9)
    labels = np.array([0, 1, 2, 1, 4, 5, 6, 7, 8])
    removals = Removals(numbered, {EXACT: labels}, labels)
    assert removals.table(numbered.own[0]).to_pylist() == [
        {"row": 1, "reason": EXACT, "survivor": doc_id(0, 1), "corpus": 1}
    ]


def test_the_best_score_stays_ties_go_to_the_lowest_and_earlier_corpora_win() -> None:
    labels = np.array([0, 1, 1, 0, 4, 4, 4, 7])
    members = grouped(labels)
    assert members.tolist() == [0, 1, 2, 3, 4, 5, 6]
    scores = np.array([9, 0.1, 0.2, 5, np.nan, 0.3, 0.3])
    assert best_survivors(labels, members, scores, own_first=0).tolist() == [0, 2, 2, 0, 5, 5, 5, 7]
    assert best_survivors(labels, members, scores, own_first=2).tolist() == [0, 1, 1, 0, 5, 5, 5, 7]
    assert best_survivors(np.arange(3), grouped(np.arange(3)), np.empty(0), own_first=0).tolist() == [0, 1, 2]


def test_corpora_signed_before_and_after_personal_data_was_replaced_are_told() -> None:
    before = Artifact("old", Manifest("clean", "c", {"pii": {}}, {}))
    after = Artifact("new", Manifest("repeated_lines", "r", {}, {}, {"signed_after_pii": True}))
    assert _mixed_signatures(before, [before]) is None
    assert _mixed_signatures(after, [after]) is None
    told = _mixed_signatures(after, [after, before])
    assert told is not None
    assert told.startswith("new was signed after personal data was replaced, old before that")
