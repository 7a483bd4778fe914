"""Contamination: overlaps by hand, against a slow twin, and on the way through a part."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts.artifacts import StageContext
from cluster.contracts.commit import committed_part
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from dataprep.clean import stage as clean
from dataprep.clean.config import CleanConfig
from dataprep.clean.part import clean_part
from dataprep.filters.config import DecontaminationSettings, FilterFamilies
from dataprep.filters.decontamination import EvaluationIndex, items_left_out
from dataprep.filters.evaluation_sets import EvaluationText, read_evaluation_sets
from dataprep.sources.shards import whole_file
from dataprep.text.column import TextColumn
from tests.unit.dataprep.text import slow_twins


def index_of(*texts: str, ngram: int = 3, min_terms: int = 2) -> EvaluationIndex:
    numbered = [EvaluationText("e", number, text) for number, text in enumerate(texts)]
    return EvaluationIndex(numbered, ngram=ngram, min_terms=min_terms)


def passages(index: EvaluationIndex, text: str) -> list[tuple[str, int]]:
    column = TextColumn(pa.array(["before", text], pa.large_string()))
    hits = index.find(column)
    assert hits.doc_offsets[1] == 0
    spans = zip(hits.starts, hits.ends, hits.texts, strict=True)
    return [(column.data[start:end].tobytes().decode(), int(number)) for start, end, number in spans]


def test_overlapping_ngrams_make_one_passage() -> None:
    index = index_of("a b c d e", "x y z")
    assert passages(index, "q a b c d r") == [("a b c d", 0)]
    assert passages(index, "a b, d e; B c D! x y z") == [("B c D", 0), ("x y z", 1)]
    assert passages(index, "a b q c d e x y") == [("c d e", 0)]
    assert passages(index, "") == passages(index, "a b") == []


def test_ngrams_of_more_numbers_than_words_find_nothing() -> None:
    index = index_of("1 2 3 4 5 6", "add 12 and 30", ngram=4, min_terms=4)
    assert passages(index, "7 8 9 10 11 12") == []
    assert passages(index, "so add 7 and 9 up") == [("add 7 and 9", 1)]


def test_items_shorter_than_an_ngram_are_looked_for_whole() -> None:
    index = index_of("one two", "one", "", ngram=5, min_terms=2)
    assert index.is_indexed_D.tolist() == [True, False, False]
    assert passages(index, "so One, Two it is, one") == [("One, Two", 0)]
    assert passages(index_of("", min_terms=1), "anything") == []


def slow_spans(texts: list[str], document: str, *, ngram: int, min_terms: int) -> list[bool]:
    """Which terms of the document lie in an n-gram of the texts."""
    terms = slow_twins.terms(document)
    covered = [False] * len(terms)
    for text in texts:
        wanted = slow_twins.terms(text)
        n = min(len(wanted), ngram)
        grams = {tuple(wanted[p : p + n]) for p in range(len(wanted) - n + 1)} if n >= min_terms else set()
        grams = {gram for gram in grams if 2 * gram.count("0") <= n}
        for p in range(len(terms) - n + 1):
            if grams and tuple(terms[p : p + n]) in grams:
                covered[p : p + n] = [True] * n
    return covered


def test_random_documents_are_searched_like_by_the_twin() -> None:
    rng = random.Random(4)
    texts = [" ".join(rng.choices("abc", k=rng.randint(0, 12))) for _ in range(12)]
    documents = [" ".join(rng.choices("abcd", k=rng.randint(0, 60))) for _ in range(600)]
    index = index_of(*texts, ngram=6, min_terms=4)
    column = TextColumn(pa.array(documents, pa.large_string()))
    hits = index.find(column)
    num_hits = 0
    for d, document in enumerate(documents):
        covered = np.zeros(len(document.split()), bool)
        for h in range(hits.doc_offsets[d], hits.doc_offsets[d + 1]):
            start, end = (int(hits.starts[h] - column.offsets[d]), int(hits.ends[h] - column.offsets[d]))
            covered[start // 2 : end // 2 + 1] = True  # letters and single spaces
            num_hits += 1
        assert covered.tolist() == slow_spans(texts, document, ngram=6, min_terms=4), document
    assert num_hits > 64, "more than the first guess has room for"


def test_evaluation_files_are_read_by_row_or_paragraph(tmp_path: Path) -> None:
    rows = ['{"question": "q one", "choices": ["c", {"text": "d"}], "id": 7}', "", '["e"]']
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    (tmp_path / "b.txt").write_text("first\nparagraph\n\n\nsecond")
    found = read_evaluation_sets([f"{tmp_path}/*"], None)
    assert [(Path(text.file).name, text.line, text.text) for text in found] == [
        ("a.jsonl.gz", 1, "q one"), ("a.jsonl.gz", 1, "c"), ("a.jsonl.gz", 1, "d"), ("a.jsonl.gz", 3, "e"),
        ("b.txt", 1, "first\nparagraph"), ("b.txt", 5, "second"),
    ]  # fmt: skip
    assert [text.text for text in read_evaluation_sets([f"{tmp_path}/a*"], ["question"])] == ["q one"]
    with pytest.raises(InputError, match="matches no file"):
        read_evaluation_sets([f"{tmp_path}/none"], None)
    (tmp_path / "bad.jsonl").write_text("{}\n{")
    with pytest.raises(InputError, match=r"line 2 of .* is no JSON"):
        read_evaluation_sets([f"{tmp_path}/bad.jsonl"], None)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"question": "one"}' * 999)[:-12])
    with pytest.raises(InputError, match=r"cut.jsonl.gz can't be read \(truncated_gz"):
        read_evaluation_sets([f"{tmp_path}/cut*"], None)


def test_texts_that_are_not_looked_for_are_counted_by_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n\none\n\n1 2 3")
    (tmp_path / "b.txt").write_text("one\n\ntwo")
    settings = DecontaminationSettings(files=(f"{tmp_path}/*",), ngram=5, min_terms=3)
    assert items_left_out(settings) == {f"{tmp_path}/a.txt": (3, 2), f"{tmp_path}/b.txt": (2, 2)}
    with pytest.raises(InputError, match=r"none of the 5 texts of .* has min_terms \(4\) words"):
        items_left_out(settings.model_copy(update={"min_terms": 4}))


def test_files_of_which_texts_are_too_short_are_noted_before_cleaning(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n\none\n\ntwo")
    (tmp_path / "b.txt").write_text("one\n\ntwo")
    notes: list[str] = []

    class Notes(SilentProgress):
        def note(self, message: str) -> None:
            notes.append(message)

    settings = DecontaminationSettings(files=(f"{tmp_path}/*",), ngram=5, min_terms=3)
    context = StageContext("clean", Notes(), tmp_path, tmp_path)
    assert clean._items_left_out(settings, context) == {f"{tmp_path}/a.txt": 2, f"{tmp_path}/b.txt": 2}
    assert f"2 of the 3 texts of {tmp_path}/a.txt have under 3 words" in notes[0]
    assert f"WARNING: all 2 texts of {tmp_path}/b.txt have under 3 words" in notes[1]


QUESTION = "Which of the two rivers that meet in the old town carries more water in the spring of most years?"
TEXT = "The town is old and has seen many a flood."


@pytest.mark.parametrize(
    ("settings", "kept", "dropped"),
    [
        ({}, [TEXT], {"contaminated": 2}),
        ({"action": "cut"}, [TEXT, f"{TEXT}\n?\n{TEXT}"], {"contaminated": 1}),
        ({"mode": "annotate"}, [TEXT, f"{TEXT}\n{QUESTION}\n{TEXT}", QUESTION[:-1]], {}),
    ],
)
def test_documents_are_dropped_cut_or_noted_and_the_hits_listed(
    tmp_path: Path, settings: dict[str, Any], kept: list[str], dropped: dict[str, int]
) -> None:
    (tmp_path / "evaluation.jsonl").write_text(json.dumps({"question": QUESTION}))
    texts = [TEXT, f"{TEXT}\n{QUESTION}\n{TEXT}", QUESTION[:-1]]
    (tmp_path / "pages.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    off = {name: None for name in FilterFamilies.model_fields if name != "language_threshold"}
    config = CleanConfig.model_validate(
        {
            **off,
            "inputs": ["-"],
            "decontamination": {"files": [str(tmp_path / "evaluation.jsonl")], **settings},
        }
    )
    clean_part([whole_file(str(tmp_path / "pages.jsonl"))], parts=str(tmp_path / "parts"), key="k", config=config)
    part = committed_part(str(tmp_path / "parts"), "k")
    assert part is not None
    assert part.metrics["dropped"] == dropped
    assert part.metrics["contamination"] == {str(tmp_path / "evaluation.jsonl"): 2}
    documents = pq.read_table(tmp_path / "parts" / part.files["documents"].name).to_pylist()
    assert [document["text"] for document in documents] == kept
    if settings.get("mode") == "annotate":
        assert [document["decontamination"]["num_passages"] for document in documents] == [0, 1, 1]
    hits = pq.read_table(tmp_path / "parts" / part.files["contamination"].name).to_pylist()
    assert [(hit["evaluation_line"], hit["passage"]) for hit in hits] == [(1, QUESTION[:-1]), (1, QUESTION[:-1])]
    assert [hit["offset"] for hit in hits] == [len(json.dumps({"text": TEXT})) + 1, hits[1]["offset"]]
