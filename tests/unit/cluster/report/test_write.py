"""The report's figures balance, and its page is whole."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.contracts.artifacts import write_manifest
from cluster.contracts.errors import StageFailed
from cluster.contracts.records import QUARANTINE_SCHEMA
from cluster.report import documents
from cluster.report.documents import (
    SHARDS_FOR_EXAMPLES,
    around_difference,
    balance,
    chains,
    document_section,
    funnel,
    length_classes,
)
from cluster.report.write import _quarantined_rows, evaluated_roles, metric_tables, write_report
from cluster.run_record import RunRecord, RunStage, read_run, write_run
from dataprep.documents import (
    CONTAMINATION_SCHEMA,
    Shard,
    read_quarantined,
    read_shard_table,
    write_shard_table,
    write_table,
)
from tests.unit.cluster.report.small_run import make_artifact, make_run


def test_every_row_that_was_read_is_accounted_for(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    assert balance(record.artifacts()) == {
        "read": 10,
        "kept": 4,
        "dropped": {"too_short": 3, "exact_duplicate": 1, "near_duplicate": 1},
        "quarantined": 1,
    }


def test_of_shards_without_quarantined_rows_only_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"uri": "a.jsonl", "offset": 7, "reason": "bad_json", "detail": "{"}]
    clean = make_run(tmp_path).artifacts()["clean"]
    shard = read_shard_table(clean.uri)[0]
    shards = []
    for number in range(20):
        table = pa.Table.from_pylist(rows if number == 17 else [], schema=QUARANTINE_SCHEMA)
        file = write_table(clean.uri, f"quarantined-{number}.parquet", table)
        shards.append(replace(shard, number=number, quarantined=file))
    write_shard_table(clean.uri, shards)
    read: list[int] = []

    def counted(artifact: str, shard: Shard) -> pa.Table:
        read.append(shard.number)
        return read_quarantined(artifact, shard)

    monkeypatch.setattr(documents, "read_quarantined", counted)
    assert [row["offset"] for row in documents._quarantined([[clean]])] == [7]
    assert read == [0, 17]


def test_a_lost_row_fails_the_report(tmp_path: Path) -> None:
    record = make_run(tmp_path, read=11)
    with pytest.raises(StageFailed, match="11 records read, but 4 kept"):
        balance(record.artifacts())


def test_the_page_is_one_file_with_plots_and_escaped_text(tmp_path: Path) -> None:
    page = Path(write_report(make_run(tmp_path))).read_text()
    assert page.count("<svg") == 1  # the loss curve
    assert page.count('<table class="bars"') == 3  # funnel, languages, lengths
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "DeepSpeedEngine, ZeRO-1, 2 workers" in page
    assert '<td class="n" data-label="place">offset 7</td><td data-label="reason">bad_json</td>' in page
    assert '<td class="n" data-label="place">whole file</td><td data-label="reason">empty_file</td>' in page
    figures = json.loads((tmp_path / "runs" / "demo" / "report.json").read_text())
    assert figures["stages"]["pretrain"] == {
        "kind": "pretrain",
        "fingerprint": "pretrain0",
        "wall_s": 1.5,
        "engine": {"class": "DeepSpeedEngine", "zero_stage": 1, "world_size": 2},
        "metrics": {"heldout_loss": 5.0, "unigram_entropy": 6.0},
    }
    assert figures["balance"]["read"] == 10


def test_gates_stand_at_the_top_with_a_banner_that_names_those_that_fail(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    page = Path(write_report(record)).read_text()
    assert "1 of 1 gate holds" in page
    assert page.index('class="banner good"') < page.index('id="documents"')
    pretrain = record.artifacts()["pretrain"]
    manifest = replace(pretrain.manifest, metrics={"heldout_loss": 5.8, "unigram_entropy": 6.0})
    write_manifest(pretrain.uri, manifest, [])
    page = Path(write_report(record)).read_text()
    assert 'class="banner bad"' in page
    assert "0 of 1 gate holds" in page
    assert "pretrain: held-out loss is 5.8 and must be below 5.5." in page


def test_metrics_of_several_values_are_tables_and_empty_ones_are_left_out() -> None:
    bins = [{"predicted": 0.55, "observed": 0.5, "pairs": 4}, {"predicted": 0.95, "observed": 1.0, "pairs": 2}]
    (table,) = metric_tables("reward_model", {"calibration": bins, "accuracy_by_subset": []})
    assert (table.columns, table.rows) == (["predicted", "observed", "pairs"], [[0.55, 0.5, 4], [0.95, 1.0, 2]])
    (reasons,) = metric_tables("preferences", {"quarantined_by_reason": {"same_answers": 3}})
    assert reasons.rows == [["same_answers", 3]]
    assert metric_tables("a kind that is not known here", {}) == []


def test_rows_of_every_reason_are_listed_however_many_there_are_of_one(tmp_path: Path) -> None:
    rows = [{"uri": "a.jsonl", "offset": number, "reason": "null_score", "detail": ""} for number in range(200)]
    rows += [{**rows[0], "offset": 200, "reason": "bad_rank"}, {**rows[0], "offset": 201, "reason": "all_tied"}]
    preferences = make_artifact(tmp_path, "preferences", {}, {})
    file = write_table(preferences.uri, "quarantined.parquet", pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA))
    write_manifest(preferences.uri, preferences.manifest, [file])
    listed = [row["offset"] for row in _quarantined_rows({"preferences": preferences})]
    assert listed == [*range(documents.MAX_QUARANTINED - 2), 200, 201]


def test_the_funnel_begins_each_loss_where_what_is_left_ends(tmp_path: Path) -> None:
    found = funnel(make_run(tmp_path).artifacts())
    assert found.title == "4 of 10 records stay (40%); the largest loss is 3 by too_short"
    clean, dedupe = found.steps
    assert [(bar.name, bar.count, bar.offset) for bar in clean.lost] == [("too_short", 3, 0.7), ("quarantined", 1, 0.6)]
    assert (clean.left.name, clean.left.count) == ("left after clean", 6)
    assert [(bar.name, bar.offset) for bar in dedupe.lost] == [("exact_duplicate", 0.5), ("near_duplicate", 0.4)]
    assert found.kept.count == 4
    assert funnel({}).title == "No record was read"


def test_models_stand_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    artifacts = make_run(tmp_path).artifacts()
    evaluation = artifacts["evaluate"]
    metrics = {"models": {"a": {}, "base": {}, "z": {}}, "samples": []}
    inputs = {"models.a": "evaluate0", "models.base": "pretrain0", "models.z": "clean0"}
    manifest = replace(evaluation.manifest, metrics=metrics, inputs=inputs)
    assert evaluated_roles({**artifacts, "evaluate": replace(evaluation, manifest=manifest)}) == ["z", "base", "a"]


def test_an_evaluation_shows_intervals_outcomes_tasks_and_what_answers_have_of_their_own(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    evaluation = record.artifacts()["evaluate"]
    metrics = {
        "models": {"base": {"heldout_loss": 5.0, "task/hhh/accuracy": 0.5}, "sft": {"heldout_loss": 4.0}},
        "intervals": {"base": {"heldout_loss": [4.5, 5.25], "task/hhh/accuracy": [0.4, 0.6]}, "sft": {}},
        "differences": [
            {
                "model": "sft", "figure": "heldout_loss", "difference": -1.0, "interval": [-1.5, -0.5], "p": 0.001,
                "num_items": 30, "outcome": "better",
            }
        ],
        "baseline": "base",
        "confidence": 0.95,
        "vocabularies": {"base": "a", "sft": "b"},
        "num_items": {"heldout_loss": {"base": 30, "sft": 30}},
        "tasks": {"hhh": {"kind": "pairs", "num_items": 221}},
        "samples": [{"prompt": "Hi", "answers": {"base": "yo <b>", "sft": "yo there"}, "sampled_answers": {}}],
    }  # fmt: skip
    write_manifest(evaluation.uri, replace(evaluation.manifest, metrics=metrics), [])
    page = Path(write_report(record)).read_text()
    assert 'held-out loss <span class="quiet unbroken">of 30</span>' in page
    assert '5.0<span class="bounds">4.5 to 5.25</span>' in page.replace('<td class="n">5<', '<td class="n">5.0<')
    assert page.count("▲ better") == 2  # in the table, and among the differences
    assert "<h4>hhh: pairs, 221 items</h4>" in page
    assert "their losses per token are no comparison" in page
    assert "yo &lt;b&gt;" in page
    assert "<mark>there</mark>" in page


def test_duplicates_stand_beside_what_stays_from_where_they_differ(tmp_path: Path) -> None:
    page = Path(write_report(make_run(tmp_path))).read_text()
    exact, near = page.index(">exact duplicate<"), page.index(">near duplicate<")
    assert page[exact:near].count("the same words " * 9 + "and &lt;i&gt;this&lt;/i&gt;<") == 2
    removed, stays = page[near:].split("<br>")[2:4]
    assert removed.startswith("…")
    assert "same words and that and that" in removed
    assert "…</td>" in removed
    assert stays.startswith("…")
    assert "same words and &lt;i&gt;this&lt;/i&gt;</td>" in stays


def test_texts_are_shown_from_shortly_before_they_differ() -> None:
    assert around_difference("a", "a") == ("a", "a")
    assert around_difference("x" * 300, "x" * 300) == ("x" * 200 + "…", "x" * 200 + "…")
    assert around_difference("x" * 100, "x" * 100 + "y") == ("…" + "x" * 60, "…" + "x" * 60 + "y")
    assert around_difference("", "y") == ("", "y")


def test_what_was_hit_of_evaluation_sets_and_how_long_documents_are_is_told(tmp_path: Path) -> None:
    artifacts = make_run(tmp_path).artifacts()
    section = document_section(artifacts, balance(artifacts))
    assert section is not None
    assert section["contamination"] == {
        "outcome": "cut out",
        "passages": {"gsm.jsonl": 3},
        "left_out": {"mmlu.jsonl": 2},
        "sampled": False,
        "documents": 2,
        "dropped": 0,
        "num_items": 1,
        "items": [{"file": "gsm.jsonl", "line": 12, "passage": "<b>Ann has</b>", "url": "a.jsonl", "documents": 2}],
    }
    lengths, sampled = length_classes(chains(artifacts))
    assert {name: count for name, count in lengths.items() if count} == {
        "0 to 199": 1, "200 to 499": 1, "2,000 to 4,999": 1, "100,000 or more": 1,
    }  # fmt: skip
    assert not sampled
    page = Path(write_report(make_run(tmp_path))).read_text()
    assert "<b>Ann" not in page
    assert "or have more numbers than words: mmlu.jsonl 2." in page


def test_passages_of_parts_that_are_not_read_and_of_files_of_one_name_are_told(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    clean = record.artifacts()["clean"]
    (shard,) = read_shard_table(clean.uri)
    rows = [
        {"uri": "a", "offset": 1, "evaluation_file": f"/e/{name}/test.jsonl", "evaluation_line": 3, "passage": name}
        for name in ("gsm", "mmlu")
    ]
    hits = write_table(clean.uri, "hits.parquet", pa.Table.from_pylist(rows, schema=CONTAMINATION_SCHEMA))
    empty = write_table(clean.uri, "empty.parquet", CONTAMINATION_SCHEMA.empty_table())
    passages = {"/e/gsm/test.jsonl": 1, "/e/mmlu/test.jsonl": 1}
    manifest = replace(clean.manifest, metrics={**clean.manifest.metrics, "contamination": passages})
    chain = {"clean": replace(clean, manifest=manifest)}
    shards = [replace(shard, number=n, contamination=empty) for n in range(SHARDS_FOR_EXAMPLES)]

    write_shard_table(clean.uri, [replace(shard, contamination=hits)])
    section = document_section(chain, balance({}))
    assert section is not None
    assert section["contamination"]["passages"] == {"gsm/test.jsonl": 1, "mmlu/test.jsonl": 1}
    assert [row["file"] for row in section["contamination"]["items"]] == ["gsm/test.jsonl", "mmlu/test.jsonl"]

    write_shard_table(clean.uri, [*shards, replace(shard, number=len(shards), contamination=hits)])
    write_shard_table(record.artifacts()["dedupe"].uri, shards)
    section = document_section(chain, balance({}))
    assert section is not None
    assert (section["contamination"]["num_items"], section["contamination"]["sampled"]) == (0, True)
    write_manifest(clean.uri, manifest, [])
    page = Path(write_report(record)).read_text()
    assert "No passage" not in page
    assert "None\nin the first parts, but some in others" in page


def test_a_chain_follows_the_documents_and_repeated_lines_are_in_the_balance(tmp_path: Path) -> None:
    metrics = {
        "documents": 6, "kept": 5, "dropped": {"repeated_lines": 1}, "repeated_lines": 2, "lines": 90, "cut_lines": 7,
        "cut_documents": 4, "most_repeated": [{"documents": 4, "within": "site", "text": "<i>Share</i>"}],
    }  # fmt: skip
    artifacts = make_run(tmp_path).artifacts()
    lines = make_artifact(tmp_path, "repeated_lines", {"parts": "clean0"}, metrics)
    shards = read_shard_table(artifacts["clean"].uri)
    write_shard_table(lines.uri, shards)
    deduped = make_artifact(tmp_path / "x", "dedupe", {"parts": "repeated_lines0"}, {"kept": 3, "removed": {"url": 2}})
    write_shard_table(deduped.uri, shards)
    chain = {"clean": artifacts["clean"], "lines": lines, "dedupe": deduped}
    assert balance(chain)["dropped"] == {"too_short": 3, "url": 2, "repeated_lines": 1}
    section = document_section(chain, balance(chain))
    assert section is not None
    assert section["repeated"][0]["most"] == metrics["most_repeated"]


def test_a_run_that_is_not_finished_has_a_report_too(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    stages = {**record.stages, "evaluate": RunStage("evaluate", "nowhere", "x", False)}
    assert "demo" in Path(write_report(RunRecord("demo", record.spec, stages))).read_text()


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    write_run(record)
    assert read_run("demo", str(tmp_path)) == record
    assert read_run(str(tmp_path / "runs" / "demo.json"), "elsewhere") == record
    newest = record.newest_of("ppo", "pretrain")
    assert newest is not None
    assert newest.kind == "pretrain"


def test_documents_deduplicated_twice_are_counted_once(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    again = {**record.stages, "dedupe_again": record.stages["dedupe"], "clean_again": record.stages["clean"]}
    twice = RunRecord("demo", record.spec, again)
    assert balance(twice.artifacts()) == balance(record.artifacts())
