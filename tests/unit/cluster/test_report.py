"""The report's figures balance, and its page is whole."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.contracts.artifacts import Artifact, Manifest, write_manifest
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import StageFailed
from cluster.contracts.records import QUARANTINE_SCHEMA
from cluster.report import balance, write_report
from cluster.runs import RunRecord, RunStage, read_run, write_run
from dataprep.documents import DROPPED_SCHEMA, Shard, write_shard_table, write_table


def _artifact(root: Path, kind: str, inputs: dict[str, str], metrics: dict[str, Any], **more: Any) -> Artifact:
    fingerprint = f"{kind}0"
    uri = str(root / kind / fingerprint)
    manifest = Manifest(kind, fingerprint, {}, inputs, metrics, timings={"wall_s": 1.5}, **more)
    write_manifest(uri, manifest, [])
    return Artifact(uri, manifest)


def _write_parts(clean: str) -> None:
    """One shard with a dropped page, whose text is hostile, and a quarantined line."""
    empty = WrittenFile("none", 0, "")
    dropped = [{"reason": "too_short", "uri": "a.jsonl", "url": "http://a", "head": "<script>alert(1)</script>"}]
    quarantined = [{"uri": "a.jsonl", "offset": 7, "reason": "bad_json", "detail": "{"}]
    files = {
        "dropped": write_table(clean, "dropped.parquet", pa.Table.from_pylist(dropped, schema=DROPPED_SCHEMA)),
        "quarantined": write_table(
            clean, "quarantined.parquet", pa.Table.from_pylist(quarantined, schema=QUARANTINE_SCHEMA)
        ),
    }
    write_shard_table(clean, [Shard(0, "a.jsonl", "a", ".", 6, 60, empty, empty, **files)])


def _run(root: Path, read: int = 10) -> RunRecord:
    artifacts = {
        "clean": _artifact(
            root,
            "clean",
            {},
            {
                "read": read,
                "kept": 6,
                "dropped": {"too_short": 3},
                "quarantined": 1,
                "quarantine_reasons": {"bad_json": 1},
                "languages_seen": {"en": 6, "de": 3},
            },
        ),
        "dedupe": _artifact(
            root, "dedupe", {"parts": "clean0"}, {"documents": 6, "kept": 4, "removed": {"exact_duplicate": 2}}
        ),
        "pretrain": _artifact(
            root,
            "pretrain",
            {},
            {"heldout_loss": 5.0, "unigram_entropy": 6.0},
            engine={"class": "DeepSpeedEngine", "zero_stage": 1, "world_size": 2},
        ),
        "evaluate": _artifact(
            root,
            "evaluate",
            {},
            {
                "models": {"base": {"heldout_loss": 5.0}, "sft": {"heldout_loss": 5.5, "reward": 1.0}},
                "samples": [{"prompt": "Hi <b>", "answers": {"base": "yo", "sft": "hello"}}],
            },
        ),
    }
    _write_parts(artifacts["clean"].uri)
    (root / "pretrain" / "pretrain0" / "metrics.jsonl").write_text(
        "\n".join(json.dumps({"step": i, "loss": 8.0 / i}) for i in range(1, 5))
    )
    stages = {n: RunStage(a.manifest.kind, a.uri, a.manifest.fingerprint, True) for n, a in artifacts.items()}
    return RunRecord("demo", {"name": "demo", "storage": str(root)}, stages)


def test_every_row_that_was_read_is_accounted_for(tmp_path: Path) -> None:
    record = _run(tmp_path)
    assert balance(record, record.artifacts()) == {
        "read": 10,
        "kept": 4,
        "dropped": {"too_short": 3, "exact_duplicate": 2},
        "quarantined": 1,
    }


def test_a_lost_row_fails_the_report(tmp_path: Path) -> None:
    record = _run(tmp_path, read=11)
    with pytest.raises(StageFailed, match="11 rows read, but 4 kept"):
        balance(record, record.artifacts())


def test_the_page_is_one_file_with_plots_and_escaped_text(tmp_path: Path) -> None:
    page = Path(write_report(_run(tmp_path))).read_text()
    assert page.count("<svg") == 3  # funnel, languages, one loss curve
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "src=" not in page
    assert "DeepSpeedEngine, ZeRO-1, 2 workers" in page
    assert '<td class="n">7</td><td>bad_json</td>' in page
    figures = json.loads((tmp_path / "runs" / "demo" / "report.json").read_text())
    assert figures["stages"]["pretrain"] == {
        "kind": "pretrain",
        "fingerprint": "pretrain0",
        "wall_s": 1.5,
        "engine": {"class": "DeepSpeedEngine", "zero_stage": 1, "world_size": 2},
        "metrics": {"heldout_loss": 5.0, "unigram_entropy": 6.0},
    }
    assert figures["balance"]["read"] == 10


def test_a_run_that_is_not_finished_has_a_report_too(tmp_path: Path) -> None:
    record = _run(tmp_path)
    stages = {**record.stages, "evaluate": RunStage("evaluate", "nowhere", "x", False)}
    assert "demo" in Path(write_report(RunRecord("demo", record.spec, stages))).read_text()


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    record = _run(tmp_path)
    write_run(record)
    assert read_run("demo", str(tmp_path)) == record
    assert read_run(str(tmp_path / "runs" / "demo.json"), "elsewhere") == record
    newest = record.newest_of("ppo", "pretrain")
    assert newest is not None
    assert newest.kind == "pretrain"


def test_documents_deduplicated_twice_are_counted_once(tmp_path: Path) -> None:
    record = _run(tmp_path)
    again = {**record.stages, "dedupe_again": record.stages["dedupe"], "clean_again": record.stages["clean"]}
    twice = RunRecord("demo", record.spec, again)
    assert balance(twice, twice.artifacts()) == balance(record, record.artifacts())
