"""One file to one part, without Ray: the balance, the reasons, the views each rule sees, and repeatable bytes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts.commit import CommittedPart, committed_part
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.storage import FileStat
from dataprep.clean import part as module
from dataprep.clean.config import CleanConfig
from dataprep.clean.decisions import DocumentFilter
from dataprep.clean.part import Counts, clean_part
from dataprep.sources.shards import input_files, part_key, plan_shards, whole_file

SENTENCE = "The committee met on the {n}th of May and agreed that the bridge over the river should be built with care. "
ENGLISH = (
    "".join(SENTENCE.format(n=n) for n in range(1, 8)) + "It is to be opened by the mayor, they said. Nobody knew."
)
GERMAN = "Der Ausschuss trat am Montag zusammen und beschloss, dass die Brücke über den Fluss gebaut werden soll. " * 5
LENIENT: dict[str, Any] = {"gopher_repetition": None, "c4": None}


def config(**settings: Any) -> CleanConfig:
    return CleanConfig(inputs=["unused"], **{**LENIENT, **settings})


def run(directory: Path, rows: list[str], settings: CleanConfig, key: str = "k") -> CommittedPart:
    source = directory / "rows.jsonl"
    source.write_text("\n".join(rows))
    kept = clean_part([whole_file(str(source))], parts=str(directory / "parts"), key=key, config=settings)
    part = committed_part(str(directory / "parts"), key)
    assert part is not None
    assert part.metrics["kept"] == kept
    return part


def table(directory: Path, part: CommittedPart, role: str) -> list[dict[str, Any]]:
    return pq.read_table(directory / "parts" / part.files[role].name).to_pylist()


def row(text: str, **fields: str) -> str:
    return json.dumps({"text": text, **fields})


def test_every_row_lands_in_one_of_the_tables_with_its_reason(tmp_path: Path) -> None:
    rows = [
        row(ENGLISH, url="https://a.example", title="A"),
        row(GERMAN),
        "{",
        row("This text is too short."),
        row(" \n "),
    ]
    part = run(tmp_path, rows, config(languages=["en"]))
    assert part.metrics["read"] == 5
    assert part.metrics["dropped"] == {"language": 1, "gopher_short_doc": 1, "empty_text": 1}
    assert part.metrics["quarantine_reasons"] == {"bad_json": 1}
    assert part.metrics["languages"] == {"en": 1}
    assert part.metrics["languages_seen"]["de"] == 1
    (document,) = table(tmp_path, part, "documents")
    assert (document["url"], document["title"], document["language"]) == ("https://a.example", "A", "en")
    assert document["text"] == ENGLISH.strip()
    dropped = table(tmp_path, part, "dropped")
    assert [(d["reason"], d["offset"]) for d in dropped] == [
        ("language", len(rows[0].encode()) + 1),
        ("gopher_short_doc", sum(len(r.encode()) + 1 for r in rows[:3])),
        ("empty_text", sum(len(r.encode()) + 1 for r in rows[:4])),
    ]
    assert dropped[0]["head"] == GERMAN[:200]


def test_signatures_are_of_the_text_as_it_is_kept(tmp_path: Path) -> None:
    policy = "We use cookies on this page, see our privacy policy."
    rows = [row(ENGLISH), row(f"{ENGLISH}\n{policy}"), row(ENGLISH.replace("May", "June"))]
    part = run(tmp_path, rows, config(c4={}))
    texts = [document["text"] for document in table(tmp_path, part, "documents")]
    assert texts[0] == texts[1], "C4 cuts the notice"
    first, second, third = table(tmp_path, part, "signatures")
    assert first == second
    assert (first["hash_high"], first["hash_low"]) != (third["hash_high"], third["hash_low"])
    assert first["num_characters"] == len(texts[0])
    assert len(first["minhash"]) == 160
    assert 0 < np.mean(np.array(first["minhash"]) == np.array(third["minhash"])) < 1


def test_the_same_bytes_come_out_again_and_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(ENGLISH.replace("bridge", f"bridge number {n}")) for n in range(50)]
    first, again = (run(tmp_path, rows, config(), key) for key in ("a", "b"))
    assert {r: f.sha256 for r, f in first.files.items()} == {r: f.sha256 for r, f in again.files.items()}
    monkeypatch.setattr(module, "_BATCH_DOCUMENTS", 7)
    small = run(tmp_path, rows, config(), "c")
    assert small.metrics == first.metrics
    assert table(tmp_path, small, "documents") == table(tmp_path, first, "documents")
    assert table(tmp_path, small, "signatures") == table(tmp_path, first, "signatures")


def test_personal_data_is_replaced_in_what_is_written_and_seen_by_the_signatures(tmp_path: Path) -> None:
    text, other = (f"{ENGLISH} Write to {name}@example.org or call +49 30 901820." for name in ("me", "you"))
    part = run(tmp_path, [row(text), row(other), row(ENGLISH)], config(pii={}))
    texts = [document["text"] for document in table(tmp_path, part, "documents")]
    expected = f"{ENGLISH} Write to <EMAIL_ADDRESS> or call <PHONE_NUMBER>."
    assert texts == [expected, expected, ENGLISH]
    assert part.metrics["pii"] == {"email_address": 2, "phone_number": 2}
    assert part.metrics["pii_documents"] == 2
    first, second, third = (signature["hash_high"] for signature in table(tmp_path, part, "signatures"))
    assert first != second
    assert third not in (first, second)


def test_scores_of_annotating_families_are_columns_of_the_documents(tmp_path: Path) -> None:
    annotated = {"gopher_quality": {"mode": "annotate"}, "fineweb": {"mode": "annotate"}}
    part = run(tmp_path, [row(ENGLISH), row("Only a few words of English are here.")], config(**annotated))
    first, second = table(tmp_path, part, "documents")
    assert first["gopher_quality"]["num_words"] > 50 > second["gopher_quality"]["num_words"] == 8
    assert first["fineweb"]["num_lines"] == 1.0
    assert "c4" not in first
    for role in ("documents", "signatures"):
        assert len(table(tmp_path, part, role)) == part.metrics["kept"] == 2
    nothing = run(tmp_path, [row("")], config(**annotated), "empty")
    schema = pq.read_schema(tmp_path / "parts" / nothing.files["documents"].name)
    assert schema.names[-2:] == ["gopher_quality", "fineweb"]


def test_an_empty_file_makes_a_part_with_one_quarantined_record(tmp_path: Path) -> None:
    part = run(tmp_path, [], config())
    assert part.metrics["read"] == 1
    assert part.metrics["quarantine_reasons"] == {"empty_file": 1}
    assert [table(tmp_path, part, role) for role in ("documents", "signatures", "dropped")] == [[], [], []]


def test_the_first_failing_rule_is_the_reason_and_families_can_be_off() -> None:
    repeated = pa.array(["The same line is here and that is all of it, with care.\n" * 30], pa.large_string())
    assert DocumentFilter(config(gopher_repetition={})).judge(repeated).reasons_D.tolist() == ["dup_line_frac"]
    assert DocumentFilter(config(fineweb={})).judge(repeated).reasons_D.tolist() == ["char_dup_ratio"]
    assert DocumentFilter(config(gopher_quality=None)).judge(repeated).reasons_D.tolist() == [""]
    low = DocumentFilter(config(language_threshold=1.0, gopher_quality=None)).judge(
        pa.array(["x1 y2 zz 9"], pa.large_string())
    )
    assert low.reasons_D.tolist() == ["language_score"]


def test_no_texts_at_all_are_judged_without_complaint() -> None:
    decisions = DocumentFilter(config(c4={}, gopher_repetition={}, fineweb={})).judge(pa.array([], pa.large_string()))
    assert (len(decisions.kept), len(decisions.reasons_D)) == (0, 0)


def test_source_code_keeps_its_language_and_is_spared_the_rules_for_prose(tmp_path: Path) -> None:
    tree = {
        "src/a.py": b"# by me@example.org\ndef add(x, y):\n    return x + y\n",
        "src/b.hpp": b"#pragma once\nint f();\n",
        "README.md": b"# Title\n",
        "Makefile": b"all:\n\techo\n",
        "LICENSE": b"All rights reserved.",
        "logo.c": b"\0\1\2",
        "void.js": b"",
        ".git/config": b"[core]",
    }
    for name, content in tree.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    settings = CleanConfig(inputs=[str(tmp_path / "tree")], format="code", languages=["en"], pii={})
    sources = [s for shard in plan_shards(input_files(settings.inputs), settings.format) for s in shard.sources]
    clean_part(sources, parts=str(tmp_path / "parts"), key="k", config=settings)
    part = committed_part(str(tmp_path / "parts"), "k")
    assert part is not None
    documents = {Path(d["uri"]).name: d for d in table(tmp_path, part, "documents")}
    assert {name: d["language"] for name, d in documents.items()} == {
        "a.py": "python", "b.hpp": "c++", "README.md": "markdown", "Makefile": "makefile"
    }  # fmt: skip
    assert documents["a.py"]["text"] == "# by me@example.org\ndef add(x, y):\n    return x + y"
    assert part.metrics["dropped"] == {"unknown_language": 1}
    assert part.metrics["quarantine_reasons"] == {"binary": 1, "empty_file": 1}
    assert part.metrics["languages"] == part.metrics["languages_seen"]


def test_an_unaccounted_row_fails_the_part() -> None:
    counts = Counts(read=3, kept=1)
    counts.dropped["language"] = 1
    with pytest.raises(StageFailed, match="3 records read, but 1 kept, 1 dropped and 0 quarantined"):
        counts.check("file")


def test_inputs_are_expanded_sorted_and_checked(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.warc.gz"):
        (tmp_path / name).write_text("x")
    found = input_files([f"{tmp_path}/c*", f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl"])
    assert [Path(f.uri).name for f in found] == ["a.jsonl", "b.jsonl", "c.warc.gz"]
    with pytest.raises(InputError, match="matches no file"):
        input_files([f"{tmp_path}/*.zst"])


def test_part_keys_tell_files_and_their_versions_apart() -> None:
    file = FileStat("s3://b/x/a b.warc.gz", 10, 5)
    others = [FileStat("s3://b/y/a b.warc.gz", 10, 5), FileStat(file.uri, 11, 5), FileStat(file.uri, 10, 6)]
    assert part_key(file) == part_key(FileStat(file.uri, 10, 5))
    assert part_key(file).startswith("a-b.warc.gz-")
    assert len({part_key(f) for f in [file, *others]}) == 4
    assert part_key(FileStat("/x/__.jsonl", 1, 1)).startswith("jsonl-")
