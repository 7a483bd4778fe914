"""Lines that many documents share: what makes two lines the same, how they are counted, what is left of a part."""

import json
import pickle
import random
import re
import subprocess
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult
from cluster.contracts.commit import CommittedPart, committed_part
from cluster.contracts.progress import SilentProgress
from dataprep.clean.config import CleanConfig
from dataprep.clean.part import clean_part
from dataprep.documents import Shard, read_shard_table, write_shard_table
from dataprep.repeated_lines import line_counts
from dataprep.repeated_lines import stage as repeated_lines
from dataprep.repeated_lines.config import RepeatedLinesConfig
from dataprep.repeated_lines.line_counts import (
    CORPUS,
    COUNT_SCHEMA,
    NUM_BANDS,
    SITE,
    LineCounter,
    Thresholds,
    copy_keys,
    key_ranges,
    repeated,
)
from dataprep.repeated_lines.line_keys import NO_KEY, is_among, line_keys, listed_among, without_lines
from dataprep.repeated_lines.part import count_part, keys_of_lines, rewrite_part
from dataprep.repeated_lines.stage import _source_key
from dataprep.signatures import table as signing
from dataprep.signatures.config import MinHashSettings
from dataprep.sources.shards import whole_file
from dataprep.text.column import TextColumn

NOTICE = "Subscribe to our newsletter and never miss a story"
MINHASH = MinHashSettings(num_hashes=16)


def column(*texts: str) -> TextColumn:
    return TextColumn(pa.array(texts, pa.large_string()))


def keys(*lines: str, **options: Any) -> list[int]:
    return line_keys(column("\n".join(lines)), **options).tolist()


def slow_normal_form(line: str) -> str:
    """CCNet's, numbers as one 0, punctuation and spaces as one space."""
    plain = "".join(c for c in unicodedata.normalize("NFD", line.lower()) if not unicodedata.combining(c))
    plain = re.sub(r"\d+(?:[.,]\d+)*", "0", plain)
    return " ".join(re.split(r"[\W_]+", plain)).strip()


def test_lines_that_say_the_same_have_the_same_key() -> None:
    same = ["© 2019 The Daily Herald. All rights reserved.", "  © 2024, the daily HÉRALD – all rights reserved"]
    assert len(set(keys(*same))) == 1
    different = [
        "The Daily Herald",
        "Daily The Herald",
        "The Daily",
        "The Daily Herald 3",
        "TheDaily Herald",
        "日本",
        "日",
    ]
    assert len(set(keys(*different))) == len(different)


def test_keys_agree_with_a_slow_twin_on_random_lines() -> None:
    rng = random.Random(0)
    alphabet = ["Read", "more", "MORE", "é", "12", "3.5", "7", ",", "-", "  ", "Ünder", "under", "!", "x9"]
    lines = [" ".join(rng.choices(alphabet, k=rng.randrange(1, 4))) for _ in range(3000)]
    groups: dict[str, set[int]] = defaultdict(set)
    for line, key in zip(lines, keys(*lines), strict=True):
        groups[slow_normal_form(line)].add(key)
    assert groups.pop("", {0}) == {0}, "lines without terms have no key"
    assert all(len(found) == 1 for found in groups.values())
    assert len({next(iter(found)) for found in groups.values()}) == len(groups) > 100


def test_short_lines_and_lines_without_terms_have_no_key() -> None:
    assert keys("Read more", "-----", "", "Read the rest", min_characters=10) == [0, 0, 0, keys("Read the rest")[0]]


def bands(copies: Sequence[int]) -> npt.NDArray[np.uint32]:
    """[D, B] keys of documents that agree in all bands or in none."""
    return np.repeat(np.array(copies, np.uint32).reshape(-1, 1), NUM_BANDS, axis=1)


def count(documents: Sequence[tuple[Sequence[int], int]], *, most_copies: int, scope: int = CORPUS) -> pa.Table:
    """Of documents given as (keys of lines, copy), in two batches."""
    counter = LineCounter(most_copies=most_copies)
    half = len(documents) // 2
    for batch in (documents[:half], documents[half:]):
        lines = np.array([line for found, _ in batch for line in found], np.uint64)
        of_lines = np.repeat(np.arange(len(batch)), [len(found) for found, _ in batch])
        counter.add({scope: lines}, of_lines, bands([copy for _, copy in batch]))
    return counter.table()


def test_counts_of_all_parts_together_are_those_of_a_slow_count() -> None:
    rng = random.Random(1)
    documents = [([rng.randrange(1, 40) for _ in range(rng.randrange(6))], rng.randrange(50)) for _ in range(400)]
    tables = [count(documents[first : first + 100], most_copies=4) for first in range(0, 400, 100)]
    shuffled = pa.concat_tables(tables).take(
        rng.sample(range(sum(t.num_rows for t in tables)), k=sum(map(len, tables)))
    )
    found = repeated(shuffled, Thresholds(min_documents=4, min_site_documents=None, least_documents=35))
    with_line: dict[int, list[int]] = defaultdict(list)
    for lines, copy in documents:
        for line in set(lines):
            with_line[line].append(copy)
    expected = {line: len(copies) for line, copies in with_line.items() if len(set(copies)) >= 4 and len(copies) >= 35}
    assert 0 < len(expected) < len(with_line)
    assert {row["line"]: row["documents"] for row in found.to_pylist()} == expected
    assert found.column("line").to_pylist() == sorted(expected)


def test_copies_of_a_document_count_as_one() -> None:
    rows = count([([5], 1)] * 10 + [([6], n) for n in range(3)], most_copies=3)
    assert repeated(rows, Thresholds(3, None)).to_pylist() == [{"line": 6, "scope": CORPUS, "documents": 3}]


def near_copies(count: int, *, changed: int, seed: int) -> list[str]:
    """Pages of 300 words, 15 lines; in each so many words are others."""
    page = [word for number in range(5) for word in prose(5 * seed + number).split()]
    pages = []
    for number in range(count):
        rng, words = random.Random(f"{seed} {number}"), list(page)
        for at in rng.sample(range(len(words)), changed):
            words[at] = "zz" + "".join(rng.choices("abcdefghij", k=8))
        pages.append("\n".join(" ".join(words[first : first + 20]) for first in range(0, 300, 20)))
    return pages


@pytest.mark.parametrize(("copies", "changed"), [(100, 2), (40, 4), (100, 8)])
def test_many_near_copies_of_a_page_count_as_few_documents(copies: int, changed: int) -> None:
    for seed in range(6):
        keys_DB = copy_keys(column(*near_copies(copies, changed=changed, seed=seed)).terms)
        counter = LineCounter(most_copies=copies)
        counter.add({CORPUS: np.full(copies, 5, np.uint64)}, np.arange(copies), keys_DB)
        assert counter.table().num_rows < 7


def test_different_pages_with_a_menu_count_one_by_one() -> None:
    menu = prose(10**6)[:20]
    keys_DB = copy_keys(column(*(f"{menu}\n{prose(2 * n)}\n{prose(2 * n + 1)}" for n in range(30))).terms)
    counter = LineCounter(most_copies=30)
    counter.add({CORPUS: np.full(30, 5, np.uint64)}, np.arange(30), keys_DB)
    assert counter.table().num_rows == 30


def test_counting_is_the_same_however_often_rows_are_collapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    keys_DB = copy_keys(column(*near_copies(100, changed=20, seed=0)).terms)
    lines = np.random.default_rng(0).integers(1, 5, (100, 3), np.uint64)

    def counted() -> pa.Table:
        counter = LineCounter(most_copies=50)
        for first in range(0, 100, 10):
            some = slice(first, first + 10)
            counter.add({CORPUS: lines[some].reshape(-1)}, np.repeat(np.arange(10), 3), keys_DB[some])
        return counter.table()

    at_the_end = counted()
    monkeypatch.setattr(line_counts, "_COLLAPSE_ROWS", 1)
    assert counted().equals(at_the_end)
    assert 4 * 3 < at_the_end.num_rows < 4 * 50
    assert sum(at_the_end.column("documents").to_pylist()) == sum(len(set(row)) for row in lines.tolist())


def test_a_parts_table_has_no_more_rows_of_a_line_than_needed_and_counts_all_its_documents() -> None:
    rows = count([([5, 5], n) for n in range(100)], most_copies=7)
    assert rows.num_rows == 7
    assert sum(rows.column("documents").to_pylist()) == 100
    assert rows.schema == COUNT_SCHEMA


def test_sites_have_a_threshold_of_their_own() -> None:
    rows = pa.concat_tables([count([([5], n) for n in range(3)], most_copies=5, scope=s) for s in (CORPUS, SITE)])
    found = repeated(rows, Thresholds(min_documents=4, min_site_documents=3))
    assert [(row["line"], row["scope"]) for row in found.to_pylist()] == [(5, SITE)]


def test_ranges_of_keys_cover_them_all_once() -> None:
    ranges = key_ranges(10, rows_per_range=3)
    assert len(ranges) == 4
    assert (ranges[0][0], ranges[-1][1]) == (0, 2**64 - 1)
    assert all(first == last + 1 for (_, last), (first, _) in pairwise(ranges))
    assert key_ranges(0, rows_per_range=3) == [(0, 2**64 - 1)]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\nCUT\nb", "a\nb"),
        ("a\n\nCUT\n\nb", "a\n\nb"),
        ("CUT\n\na\n\n\nb", "a\n\n\nb"),
        ("a\nCUT\nCUT\n\nCUT\n\nb\nCUT", "a\n\nb"),
        ("CUT\nCUT", ""),
        ("  a\n\nb ", "  a\n\nb "),
    ],
)
def test_what_is_left_of_a_text(text: str, left: str) -> None:
    texts = column("CUT before", text, "and after")
    cut = np.array(
        [texts.data[s:e].tobytes() == b"CUT" for s, e in zip(texts.lines.starts, texts.lines.ends, strict=True)]
    )
    assert without_lines(texts, cut).edited(texts).texts.to_pylist() == ["CUT before", left, "and after"]


# One part on disk.


def cleaned(root: Path, rows: Sequence[dict[str, Any]]) -> tuple[str, Shard]:
    """A clean artifact of one part."""
    (root / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    lenient: dict[str, Any] = {"gopher_repetition": None, "gopher_quality": None, "c4": None, "language_threshold": 0}
    config = CleanConfig(inputs=["-"], minhash=MINHASH, **lenient)
    clean_part([whole_file(str(root / "rows.jsonl"))], parts=str(root / "parts"), key="k", config=config)
    part = committed_part(str(root / "parts"), "k")
    assert part is not None
    figures = {"num_documents": part.metrics["kept"], "num_characters": part.metrics["characters_kept"]}
    shard = Shard(
        0,
        "rows.jsonl",
        "k",
        "../parts",
        **figures,
        **{role: part.files[role] for role in ("documents", "signatures", "dropped", "quarantined")},
    )
    write_shard_table(str(root / "clean"), [shard])
    return str(root / "clean"), read_shard_table(str(root / "clean"))[0]


def cut(
    root: Path, rows: Sequence[dict[str, Any]], **settings: Any
) -> tuple[CommittedPart, dict[str, list[dict[str, Any]]]]:
    """The part after the stage's three passes, and its tables."""
    artifact, shard = cleaned(root, rows)
    config = RepeatedLinesConfig(parts="clean", **{"min_documents": 3, **settings})
    count_part(artifact, shard, counts=str(root / "counts"), key="c", config=config)
    counted = committed_part(str(root / "counts"), "c")
    assert counted is not None
    counts = pq.read_table(root / "counts" / counted.files["counts"].name)
    listed = repeated(counts, Thresholds(config.min_documents, config.min_site_documents))
    hits = listed.column("line").to_numpy()
    rewrite_part(artifact, shard, parts=str(root / "out"), key="r", hits=hits, config=config, minhash=MINHASH)
    part = committed_part(str(root / "out"), "r")
    assert part is not None
    return part, {role: pq.read_table(root / "out" / file.name).to_pylist() for role, file in part.files.items()}


def test_a_part_signed_by_other_settings_is_another_part(tmp_path: Path) -> None:
    _, shard = cleaned(tmp_path, [{"text": prose(1)}])
    other = replace(shard, signatures=replace(shard.signatures, sha256="0" * 64))
    assert _source_key(other) != _source_key(shard)
    assert _source_key(replace(shard, number=3)) == _source_key(shard)


def prose(seed: int) -> str:
    """Three lines of 20 words that no other seed has."""
    rng = random.Random(seed)
    letters = "bcdfghjklmnpqrstvwz"
    words = ["".join(rng.choices(letters, k=2)) + "a" + "".join(rng.choices(letters, k=4)) for _ in range(60)]
    return "\n".join(" ".join(words[first : first + 20]) for first in (0, 20, 40))


def test_a_part_without_its_repeated_lines_keeps_the_balance_and_where_each_document_is_from(tmp_path: Path) -> None:
    rows = [{"text": f"{prose(n)}\n\n{NOTICE} {n}\n", "url": f"http://a.org/{n}"} for n in range(5)]
    rows += [{"text": f"{NOTICE} 8\nToo little", "url": "http://a.org/short"}, {"text": prose(9)}, {"text": ""}]
    part, tables = cut(tmp_path, rows)
    assert [d["text"] for d in tables["documents"]] == [prose(n) for n in (*range(5), 9)]
    assert [d["url"] for d in tables["documents"]] == [*(f"http://a.org/{n}" for n in range(5)), None]
    assert len({d["offset"] for d in tables["documents"]}) == 6
    assert [(d["reason"], d["url"], d["head"]) for d in tables["dropped"]] == [
        ("empty_text", None, ""), ("repeated_lines", "http://a.org/short", f"{NOTICE} 8\nToo little"),
    ]  # fmt: skip
    assert [(c["documents"], c["text"]) for c in tables["cut"]] == [(6, f"{NOTICE} 0")]
    figures = part.metrics
    assert (figures["documents"], figures["kept"], figures["dropped"]) == (7, 6, {"repeated_lines": 1})
    assert (figures["cut_lines"], figures["cut_documents"]) == (6, 6)
    assert figures["characters_kept"] == sum(len(d["text"]) for d in tables["documents"])


def test_signatures_are_those_of_what_is_left(tmp_path: Path) -> None:
    rows = [{"text": f"{prose(n)}\n{NOTICE}"} for n in range(4)]
    _, tables = cut(tmp_path, rows)
    expected = signing.signatures(column(*(d["text"] for d in tables["documents"])), MINHASH).to_pylist()
    assert tables["signatures"] == expected
    assert NOTICE not in "".join(d["text"] for d in tables["documents"])


def test_annotating_cuts_and_drops_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"{NOTICE}\n{prose(n)}"} for n in range(3)] + [{"text": "alone"}]
    part, tables = cut(tmp_path, rows, mode="annotate", min_documents=2)
    assert [d["text"] for d in tables["documents"]] == [row["text"] for row in rows]
    fractions = [d["repeated_lines"]["cut_characters_fraction"] for d in tables["documents"]]
    assert fractions[0] == len(NOTICE) / (len(NOTICE) + len(prose(0).replace("\n", "")))
    assert fractions[3] == 0
    assert part.metrics["kept"] == 4


def test_lines_of_one_site_are_cut_there_alone(tmp_path: Path) -> None:
    rows = [{"text": f"{prose(n)}\n{NOTICE}", "url": f"https://www.a.org/{n}?x={n}"} for n in range(3)]
    rows += [{"text": f"{prose(7)}\n{NOTICE}", "url": "http://b.org/7"}]
    _, tables = cut(tmp_path, rows, min_documents=None, min_site_documents=3)
    assert [NOTICE in d["text"] for d in tables["documents"]] == [False, False, False, True]


def test_a_page_that_is_there_often_keeps_its_lines(tmp_path: Path) -> None:
    _, tables = cut(tmp_path, [{"text": prose(1)}] * 10)
    assert len(tables["documents"]) == 10
    assert {d["text"] for d in tables["documents"]} == {prose(1)}


def test_no_page_is_emptied_for_its_many_near_copies(tmp_path: Path) -> None:
    part, _ = cut(tmp_path, [{"text": text} for text in near_copies(100, changed=2, seed=0)], min_documents=7)
    assert (part.metrics["kept"], part.metrics["cut_lines"]) == (100, 0)


def test_source_code_is_left_alone(tmp_path: Path) -> None:
    texts = column(*(f"import numpy as np\nx = {n}" for n in range(3)))
    table = pa.table({"language": ["python", "en", None], "url": [None] * 3})
    found = keys_of_lines(texts, table, RepeatedLinesConfig(parts="clean", min_line_characters=0))[CORPUS]
    assert [bool(key) for key in found] == [False, False, True, True, True, True]


def test_no_key_is_among_none_and_never_listed() -> None:
    some = np.array([0, 3, 9], np.uint64)
    assert is_among(some, np.empty(0, np.uint64)).tolist() == [False] * 3
    assert is_among(some, np.array([NO_KEY, 9], np.uint64)).tolist() == [False, False, True]


def run_here(
    root: Path, rows: Sequence[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[StageResult, list[Callable[[dict[str, Any]], int]]]:
    """The whole stage, its tasks one after another in this process; and these."""
    tasks = []

    def one_by_one(task: Callable[[dict[str, Any]], int], todo: Sequence[dict[str, Any]], **_: Any) -> None:
        tasks.append(task)
        for row in todo:
            task(json.loads(json.dumps(row)))

    monkeypatch.setattr(repeated_lines, "run_shard_tasks", one_by_one)
    uri, _ = cleaned(root, rows)
    manifest = Manifest("clean", "c", {"minhash": MINHASH.model_dump()}, {})
    context = StageContext("lines", SilentProgress(), root, root, parts_directory=str(root / "lines-parts"))
    config = RepeatedLinesConfig(parts="clean", **settings)
    return repeated_lines.run(config, {"parts": Artifact(uri, manifest)}, str(root / "lines"), context), tasks


def test_lines_of_the_corpus_and_of_sites_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"{prose(n)}\n{NOTICE}", "url": f"http://{'ab'[n % 2]}.org/{n}"} for n in range(6)]
    result, _ = run_here(tmp_path, rows, monkeypatch, min_documents=6, min_site_documents=3)
    assert (result.metrics["repeated_lines"], result.metrics["repeated_lines_of_sites"]) == (1, 2)
    assert result.metrics["cut_lines"] == 6
    found = [(row["documents"], row["within"], row["text"]) for row in result.metrics["most_repeated"]]
    assert found == [(6, "corpus", NOTICE), (3, "site", NOTICE), (3, "site", NOTICE)]


def test_a_worker_can_take_a_task_before_it_knows_where_kernels_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tasks = run_here(tmp_path, [{"text": prose(1)}], monkeypatch)
    assert len(tasks) == 3
    script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); sys.exit('numba' in sys.modules)"
    (tmp_path / "tasks").write_bytes(pickle.dumps(tasks))
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "tasks")], check=False).returncode == 0


def test_listed_keys_are_found_among_those_of_a_part_by_slices() -> None:
    rng = np.random.default_rng(0)
    own = np.unique(rng.integers(1, 1000, 300, np.uint64))
    for listed in (own[:0], own[3:4], np.arange(200, 300, dtype=np.uint64), np.arange(900, 1100, dtype=np.uint64)):
        assert listed_among(own, listed).tolist() == np.intersect1d(own, listed).tolist()


def test_settings_that_repeat_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="null needs min_site_documents"):
        RepeatedLinesConfig(parts="clean", min_documents=None)
    with pytest.raises(ValidationError, match="goes with min_documents"):
        RepeatedLinesConfig(parts="clean", min_documents=None, min_site_documents=3, min_documents_fraction=0.1)
