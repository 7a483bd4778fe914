"""The report of a run: `report.html` for people, `report.json` with the same figures for programs.

One self-contained page: where every document went, what was learnt against which yardstick, how the models
compare, what they answer, and which data made which model. Plots are inline SVG; nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact
from cluster.contracts.errors import StageFailed
from cluster.display import duration
from cluster.plots import bar_chart, curve_panels
from cluster.runs import RunRecord, run_uri
from cluster.yardsticks import readings
from dataprep.documents import read_dropped, read_quarantined, read_shard_table
from training.conversations import QUARANTINE_FILE

MAX_QUARANTINED = 50  # records listed; the artifact holds all
EXAMPLES_PER_REASON = 2
SHARDS_FOR_EXAMPLES = 32  # of each clean artifact; reading more would make a large run's report slow
_TEMPLATES = Path(__file__).parent / "templates"

# Per kind: what is drawn from metrics.jsonl, as (key, axis label).
CURVES: dict[str, tuple[tuple[str, str], ...]] = {
    "pretrain": (("loss", "loss, nats per token"),),
    "sft": (("loss", "loss on answers, nats per token"),),
    "reward_model": (("loss", "pair loss"),),
    "dpo": (("loss", "DPO loss"), ("rewards/margins", "reward margin")),
    "ppo": (("reward", "mean reward"), ("kl", "KL to the reference, nats per answer")),
}


def write_report(record: RunRecord) -> str:
    """Write both files of a run's report; returns the URI of the page."""
    artifacts = record.artifacts()
    figures = report_figures(record, artifacts)
    storage.write_bytes(
        run_uri(record.storage, record.name, "report.json"), json.dumps(figures, indent=2, default=str).encode()
    )
    page = run_uri(record.storage, record.name, "report.html")
    storage.write_bytes(page, _render(record, artifacts, figures).encode())
    return page


def report_figures(record: RunRecord, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """What `report.json` holds."""
    stages = {}
    for name, artifact in artifacts.items():
        manifest = artifact.manifest
        stages[name] = {
            "kind": manifest.kind,
            "fingerprint": manifest.fingerprint,
            "wall_s": manifest.timings.get("wall_s"),
            "engine": manifest.engine,
            "metrics": manifest.metrics,
        }
    return {"run": record.name, "stages": stages, "balance": balance(record, artifacts)}


def balance(record: RunRecord, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Where every row that was read went. Raises `StageFailed` where the figures do not add up."""
    cleans = {a.manifest.fingerprint: a for a in artifacts.values() if a.manifest.kind == "clean"}
    deduped: dict[str, Artifact] = {}  # by clean; where several stages deduplicate the same documents, the first counts
    for artifact in artifacts.values():
        if artifact.manifest.kind == "dedupe":
            deduped.setdefault(artifact.manifest.inputs["parts"], artifact)
    dropped: dict[str, int] = {}
    read = kept = quarantined = 0
    for fingerprint, clean in cleans.items():
        last = deduped.get(fingerprint, clean)
        _add(dropped, clean.manifest.metrics["dropped"])
        if last is not clean:
            _add(dropped, last.manifest.metrics["removed"])
        read += clean.manifest.metrics["read"]
        quarantined += clean.manifest.metrics["quarantined"]
        kept += last.manifest.metrics["kept"]
    if read != kept + sum(dropped.values()) + quarantined:
        raise StageFailed(
            f"run {record.name}: {read} rows read, but {kept} kept + {sum(dropped.values())} dropped + "
            f"{quarantined} quarantined"
        )
    return {
        "read": read,
        "kept": kept,
        "dropped": dict(sorted(dropped.items(), key=lambda item: -item[1])),
        "quarantined": quarantined,
    }


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        total[reason] = total.get(reason, 0) + count


def _render(record: RunRecord, artifacts: Mapping[str, Artifact], figures: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = _figure
    environment.filters["duration"] = duration
    evaluation = next((a for a in artifacts.values() if a.manifest.kind == "evaluate"), None)
    cleans = [a for a in artifacts.values() if a.manifest.kind == "clean"]
    languages: dict[str, int] = {}
    reasons: dict[str, int] = {}
    pii: dict[str, int] = {}
    for artifact in cleans:
        _add(languages, artifact.manifest.metrics["languages_seen"])
        _add(reasons, artifact.manifest.metrics["quarantine_reasons"])
        _add(pii, artifact.manifest.metrics.get("pii", {}))
    top_languages = dict(sorted(languages.items(), key=lambda item: -item[1])[:12])
    total = sum(stage["wall_s"] or 0 for stage in figures["stages"].values())
    return environment.get_template("report.html.j2").render(
        run=record,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        total_s=total,
        stages=figures["stages"],
        balance=figures["balance"],
        funnel=bar_chart(_funnel(figures["balance"]), "documents"),
        languages=bar_chart(top_languages, "documents") if top_languages else None,
        quarantine_reasons=reasons,
        pii=pii,
        quarantined=_quarantined(cleans),
        quarantined_conversations=_quarantined_conversations(artifacts),
        dropped_examples=_dropped_examples(cleans),
        yardsticks={name: readings(a.manifest.kind, a.manifest.metrics) for name, a in artifacts.items()},
        curves={name: svg for name, a in artifacts.items() if (svg := _curves(a)) is not None},
        evaluation=evaluation.manifest.metrics if evaluation else None,
        inputs={name: _input_names(name, artifacts) for name in artifacts},
    )


def _funnel(figures: Mapping[str, Any]) -> dict[str, int]:
    return {
        "read": figures["read"],
        **{f"- {reason}": count for reason, count in figures["dropped"].items() if count},
        **({"- quarantined": figures["quarantined"]} if figures["quarantined"] else {}),
        "kept": figures["kept"],
    }


def _quarantined(cleans: Sequence[Artifact]) -> list[dict[str, Any]]:
    """The first quarantined records, with file and offset."""
    rows: list[dict[str, Any]] = []
    for artifact in cleans:
        for shard in read_shard_table(artifact.uri):
            rows += read_quarantined(artifact.uri, shard).slice(0, MAX_QUARANTINED - len(rows)).to_pylist()
            if len(rows) == MAX_QUARANTINED:
                return rows
    return rows


def _quarantined_conversations(artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Rows of conversation files that no stage could take; the stages that read a file quarantine the same ones."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for artifact in artifacts.values():
        for file in artifact.files():
            if file.name == QUARANTINE_FILE:
                rows = storage.read_table(artifact.path(file.name)).to_pylist()
                found |= {(row["uri"], row["offset"]): row for row in rows}
    return list(found.values())[:MAX_QUARANTINED]


def _dropped_examples(cleans: Sequence[Artifact]) -> list[dict[str, Any]]:
    """A few dropped documents of every reason, by reason."""
    found: dict[str, list[dict[str, Any]]] = {}
    for artifact in cleans:
        for shard in read_shard_table(artifact.uri)[:SHARDS_FOR_EXAMPLES]:
            dropped = read_dropped(artifact.uri, shard).select(["reason", "uri", "url", "head"])
            for row in dropped.to_pylist():
                examples = found.setdefault(row["reason"], [])
                if len(examples) < EXAMPLES_PER_REASON:
                    examples.append({**row, "head": (row["head"] or "")[:200]})
    return [row for reason in sorted(found) for row in found[reason]]


def _curves(artifact: Artifact) -> str | None:
    panels = CURVES.get(artifact.manifest.kind)
    if panels is None:
        return None
    try:
        lines = storage.read_bytes(artifact.path("metrics.jsonl")).splitlines()
    except FileNotFoundError:
        return None
    rows = [json.loads(line) for line in lines if line.strip()]
    return curve_panels(rows, panels)


def _input_names(name: str, artifacts: Mapping[str, Artifact]) -> list[str]:
    wanted = set(artifacts[name].manifest.inputs.values())
    return [other for other, artifact in artifacts.items() if artifact.manifest.fingerprint in wanted]


def _figure(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
