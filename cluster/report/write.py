"""The report of a run: `report.html` for people, `report.json` with the same figures for programs.

One self-contained page: where every document went, what was learnt against which reference, how the models
compare, what they answer, and which data made which model. Plots are inline SVG; nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact
from cluster.report.documents import MAX_QUARANTINED, balance, document_section
from cluster.report.gates import readings
from cluster.report.plots import curve_panels
from cluster.run_record import RunRecord, run_uri
from cluster.stage_kinds import STAGE_KINDS
from cluster.terminal import duration
from training.conversations.reading import QUARANTINE_FILE

_TEMPLATES = Path(__file__).parent / "templates"


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
    return {"run": record.name, "stages": stages, "balance": balance(artifacts)}


def _render(record: RunRecord, artifacts: Mapping[str, Artifact], figures: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = _figure
    environment.filters["duration"] = duration
    evaluation = next((a for a in artifacts.values() if a.manifest.kind == "evaluate"), None)
    total = sum(stage["wall_s"] or 0 for stage in figures["stages"].values())
    return environment.get_template("report.html.j2").render(
        run=record,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        total_s=total,
        stages=figures["stages"],
        documents=document_section(artifacts, figures["balance"]),
        quarantined_conversations=_quarantined_conversations(artifacts),
        gates={name: readings(a.manifest.kind, a.manifest.metrics) for name, a in artifacts.items()},
        curves={name: svg for name, a in artifacts.items() if (svg := _curves(a)) is not None},
        evaluation=evaluation.manifest.metrics if evaluation else None,
        inputs={name: _input_names(name, artifacts) for name in artifacts},
    )


def _quarantined_conversations(artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Rows of conversation files that no stage could take; the stages that read a file quarantine the same ones."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for artifact in artifacts.values():
        for file in artifact.files():
            if file.name == QUARANTINE_FILE:
                rows = storage.read_table(artifact.path(file.name)).to_pylist()
                found |= {(row["uri"], row["offset"]): row for row in rows}
    return list(found.values())[:MAX_QUARANTINED]


def _curves(artifact: Artifact) -> str | None:
    kind = STAGE_KINDS.get(artifact.manifest.kind)
    if kind is None or not kind.curves:
        return None
    try:
        lines = storage.read_bytes(artifact.path("metrics.jsonl")).splitlines()
    except FileNotFoundError:
        return None
    rows = [json.loads(line) for line in lines if line.strip()]
    return curve_panels(rows, [(curve.key, curve.label) for curve in kind.curves])


def _input_names(name: str, artifacts: Mapping[str, Artifact]) -> list[str]:
    wanted = set(artifacts[name].manifest.inputs.values())
    return [other for other, artifact in artifacts.items() if artifact.manifest.fingerprint in wanted]


def _figure(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
