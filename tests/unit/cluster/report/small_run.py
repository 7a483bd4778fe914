"""A small run, made without running anything: what the tests of the reports read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.contracts.artifacts import Artifact, Manifest, write_manifest
from cluster.contracts.records import QUARANTINE_SCHEMA
from cluster.run_record import RunRecord, RunStage
from dataprep.documents import (
    CONTAMINATION_SCHEMA,
    DOCUMENT_SCHEMA,
    DROPPED_SCHEMA,
    REMOVAL_SCHEMA,
    Shard,
    signature_schema,
    write_shard_table,
    write_table,
)


def make_artifact(
    root: Path,
    kind: str,
    inputs: dict[str, str],
    metrics: dict[str, Any],
    config: dict[str, Any] | None = None,
    **more: Any,
) -> Artifact:
    fingerprint = f"{kind}0"
    uri = str(root / kind / fingerprint)
    manifest = Manifest(kind, fingerprint, config or {}, inputs, metrics, timings={"wall_s": 1.5}, **more)
    write_manifest(uri, manifest, [])
    return Artifact(uri, manifest)


def _write_parts(clean: str, dedupe: str) -> None:
    """One shard of six documents with a dropped page, whose text is hostile, a quarantined line and an overlap."""
    shared = "the same words " * 9
    texts = [shared + "and <i>this</i>", shared + "and that " * 99, "c", "d", shared + "and <i>this</i>", "f"]
    documents = [{"text": text, "uri": "a.jsonl", "offset": n} for n, text in enumerate(texts)]
    dropped = [{"reason": "too_short", "uri": "a.jsonl", "url": "http://a", "head": "<script>alert(1)</script>"}]
    quarantined = [
        {"uri": "a.jsonl", "offset": 7, "reason": "bad_json", "detail": "{"},
        {"uri": "b.jsonl", "offset": -1, "reason": "empty_file", "detail": ""},
    ]
    hit = {"uri": "a.jsonl", "evaluation_file": "/data/gsm.jsonl", "evaluation_line": 12, "passage": "<b>Ann has</b>"}
    lengths = [{"num_characters": n} for n in (10, 199, 200, 3000, 3000, 10**6)]
    reasons = {1: "near_duplicate", 4: "exact_duplicate"}
    removals = [{"row": row, "reason": reason, "survivor": 0, "corpus": 0} for row, reason in reasons.items()]
    files = {
        role: write_table(clean, f"{role}.parquet", pa.Table.from_pylist(rows, schema=schema))
        for role, rows, schema in (
            ("documents", documents, DOCUMENT_SCHEMA),
            ("dropped", dropped, DROPPED_SCHEMA),
            ("quarantined", quarantined, QUARANTINE_SCHEMA),
            ("contamination", [{**hit, "offset": n} for n in (3, 3, 9)], CONTAMINATION_SCHEMA),
            ("signatures", lengths, signature_schema(1, pa.uint32())),
        )
    }
    shard = Shard(0, "a.jsonl", "a", clean, 6, 60, **files)
    write_shard_table(clean, [shard])
    removed = write_table(dedupe, "removals.parquet", pa.Table.from_pylist(removals, schema=REMOVAL_SCHEMA))
    write_shard_table(dedupe, [replace(shard, removals=removed, num_removed=2)])


def make_run(root: Path, read: int = 10) -> RunRecord:
    """The run "demo": ten records read, four kept, a base model, and an evaluation of two models."""
    artifacts = {
        "clean": make_artifact(
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
                "evaluation_texts_left_out": {"mmlu.jsonl": 2},
                "contamination": {"/data/gsm.jsonl": 3},
            },
            {"decontamination": {"mode": "filter", "action": "cut"}},
        ),
        "dedupe": make_artifact(
            root,
            "dedupe",
            {"parts": "clean0"},
            {"documents": 6, "kept": 4, "removed": {"exact_duplicate": 1, "near_duplicate": 1}},
        ),
        "pretrain": make_artifact(
            root,
            "pretrain",
            {},
            {"heldout_loss": 5.0, "unigram_entropy": 6.0},
            engine={"class": "DeepSpeedEngine", "zero_stage": 1, "world_size": 2},
        ),
        "evaluate": make_artifact(
            root,
            "evaluate",
            {},
            {
                "models": {"base": {"heldout_loss": 5.0}, "sft": {"heldout_loss": 5.5, "reward": 1.0}},
                "samples": [{"prompt": "Hi <b>", "answers": {"base": "yo", "sft": "hello"}}],
            },
        ),
    }
    _write_parts(artifacts["clean"].uri, artifacts["dedupe"].uri)
    (root / "pretrain" / "pretrain0" / "metrics.jsonl").write_text(
        "\n".join(json.dumps({"step": i, "loss": 8.0 / i}) for i in range(1, 5))
    )
    stages = {n: RunStage(a.manifest.kind, a.uri, a.manifest.fingerprint, True) for n, a in artifacts.items()}
    spec = {
        "name": "demo",
        "storage": str(root),
        "seed": 1,
        "stages": {"clean": {"languages": ["en"]}, "dedupe": {}, "pretrain": {"lr": 0.1, "steps": 4}, "evaluate": {}},
    }
    return RunRecord("demo", spec, stages)


def make_other_run(root: Path) -> RunRecord:
    """The run "other": as "demo" is, but with another learning rate, so that its model and its answers differ."""
    record = make_run(root)
    changes: dict[str, dict[str, Any]] = {
        "pretrain": {"heldout_loss": 5.75, "unigram_entropy": 6.0},
        "evaluate": {
            "models": {"base": {"heldout_loss": 5.75}, "sft": {"heldout_loss": 5.5, "reward": 1.0}},
            "samples": [{"prompt": "Hi <b>", "answers": {"base": "yo <i>you</i>", "sft": "hello"}}],
        },
    }
    stages = dict(record.stages)
    for name, metrics in changes.items():
        artifact = record.artifacts()[name]
        inputs = {"models.base": "pretrain1"} if name == "evaluate" else {}
        manifest = replace(artifact.manifest, fingerprint=f"{name}1", metrics=metrics, inputs=inputs)
        write_manifest(artifact.uri, manifest, [])
        stages[name] = replace(stages[name], fingerprint=f"{name}1")
    curve = "".join(json.dumps({"step": i, "loss": 9.0 / i}) + "\n" for i in range(1, 5))
    (root / "pretrain" / "pretrain0" / "metrics.jsonl").write_text(curve)
    spec = json.loads(json.dumps(record.spec)) | {"name": "other"}
    spec["stages"]["pretrain"]["lr"] = 0.2
    return RunRecord("other", spec, stages)
