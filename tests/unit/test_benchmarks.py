"""The data benchmark measures what it says: what is planted, what counts as found, what holds."""

import json

import numpy as np
import pytest

from benchmarks.dataprep.documents import EDITS, Document, plant_duplicates, recombined, unlike
from benchmarks.dataprep.near_duplicates import _found
from benchmarks.figures import Figure, print_figures, ratio

UNIQUE = [Document(f"u{n}", " ".join(f"w{n}x{k}" for k in range(60))) for n in range(150)]


def test_planted_copies_differ_from_their_source_by_as_many_words_as_they_say() -> None:
    planted = plant_duplicates(UNIQUE, seed=3)
    by_id = {document.id: document for document in planted}
    assert len(by_id) == len(planted) == 150 + 10 + 20
    sources = [document.source_id for document in planted if document.source_id is not None]
    assert len(set(sources)) == 30
    for document in planted:
        if document.source_id is not None:
            words, original = document.text.split(" "), by_id[document.source_id].text.split(" ")
            assert sum(a != b for a, b in zip(words, original, strict=True)) == (document.edits or 0)
    assert {d.edits for d in planted if d.kind == "near"} == set(EDITS)
    assert planted == plant_duplicates(UNIQUE, seed=3)


def test_unlike_documents_are_those_that_share_few_shingles_with_earlier_ones() -> None:
    words = UNIQUE[0].text.split()
    near = Document("near", " ".join([*words[:50], *(f"other{k}" for k in range(10))]))  # 46 of 66 shingles
    far = Document("far", " ".join([*words[:20], *(f"far{k}" for k in range(40))]))  # 16 of 96
    assert unlike([*UNIQUE, near, far]) == [*UNIQUE, far]
    assert unlike([near, *UNIQUE[1:]]) == [near, *UNIQUE[1:]]
    assert unlike([*UNIQUE, near, far], limit=len(UNIQUE) + 1) == [*UNIQUE, far], "near takes no place"


def test_recombined_documents_are_unlike_but_for_the_copies() -> None:
    made = list(recombined(UNIQUE, 150, seed=0))
    assert sum(document.kind == "exact" for document in made) == 10
    assert len({document.text for document in made}) == 140


def test_found_are_pairs_of_which_one_went_and_lost_are_unique_documents_without_a_copy_left() -> None:
    documents = [
        Document("a", ""), Document("b", ""), Document("c", ""), Document("d", ""),
        Document("a1", "", "near", "a", 2), Document("b1", "", "near", "b", 2), Document("c1", "", "exact", "c"),
    ]  # fmt: skip
    assert _found(documents, {"a", "b", "b1", "c1"}) == {2: 1, None: 1}


def test_a_figure_holds_by_its_bar_and_prints_a_line_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        Figure("1", "speed", "x", 99.6, 100, ours=996, peer=10),
        Figure("6b", "memory", "MB", 700, 1000, at_most=True),
        Figure("2", "speed", "x", ratio(3.0, None), 50, ours=3.0),
    ]
    assert [figure.holds for figure in figures] == [False, True, None]
    print_figures(figures)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert lines[0] == {"bar": "dataprep-1", "value": 99.6, "asked": 100, "holds": False}
    assert lines[2]["value"] is None


def test_the_identity_of_components_tells_them_apart() -> None:
    from benchmarks.dataprep.graph import _identity

    one, other = _identity(np.array([0, 0, 2])), _identity(np.array([0, 1, 1]))
    assert one["components"] == other["components"] == 2
    assert one["labels"] != other["labels"]
    assert _identity(np.array([0, 0, 2], np.uint32)) == one
