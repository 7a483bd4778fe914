"""The report of a run: `report.html` for people, `report.json` with the same figures for programs.

One self-contained page: where every document went, what was learnt against which reference, how the models
compare, what they answer, and which data made which model. Plots are inline SVG; nothing is fetched.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact
from cluster.report.conversations import KIND, conversation_sections
from cluster.report.curves import stage_plots
from cluster.report.documents import MAX_QUARANTINED, balance, document_section
from cluster.report.evaluation import Evaluation, evaluation_section
from cluster.report.gates import Reading, readings
from cluster.report.page import Section, figure, render, words
from cluster.run_record import RunRecord, run_uri
from cluster.stage_kinds import STAGE_KINDS
from training.conversations.reading import QUARANTINE_FILE


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


@dataclass(frozen=True)
class MetricTable:
    """A metric of several values as the template shows it."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


def _render(record: RunRecord, artifacts: Mapping[str, Artifact], figures: Mapping[str, Any]) -> str:
    evaluation = evaluation_section(artifacts, evaluated_roles(artifacts))
    gates = {name: found for name, a in artifacts.items() if (found := readings(a.manifest.kind, a.manifest.metrics))}
    documents = document_section(artifacts, figures["balance"])
    conversations = conversation_sections(artifacts)
    quarantined = _quarantined_rows(artifacts)
    return render(
        "report.html.j2",
        title=record.name,
        contents=_contents(artifacts, gates, documents, bool(conversations), bool(quarantined), evaluation),
        run=record,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        total_s=sum(stage["wall_s"] or 0 for stage in figures["stages"].values()),
        stages=figures["stages"],
        documents=documents,
        conversations=conversations,
        quarantined_rows=quarantined,
        gates=gates,
        num_gates=sum(map(len, gates.values())),
        failing=failing_gates(gates),
        curves={name: stage_plots(name, [artifact]) for name, artifact in artifacts.items()},
        evaluation=evaluation,
        inputs={name: _input_names(name, artifacts) for name in artifacts},
        plain_metrics={name: plain_metrics(artifact) for name, artifact in artifacts.items()},
        tables={name: metric_tables(a.manifest.kind, a.manifest.metrics) for name, a in artifacts.items()},
    )


def _contents(
    artifacts: Mapping[str, Artifact],
    gates: Mapping[str, Sequence[Reading]],
    documents: Mapping[str, Any] | None,
    has_conversations: bool,
    has_quarantined: bool,
    evaluation: Evaluation | None,
) -> list[Section]:
    sections = [Section("gates", "What must hold")] if gates else []
    if documents is not None:
        parts = [Section(name, name.title()) for name in ("languages", "lengths") if documents[name]]
        sections.append(Section("documents", "Documents", (*parts, Section("quarantined", "Quarantined"))))
    if has_conversations:
        sections.append(Section("conversations", "Conversations"))
    if has_quarantined:
        sections.append(Section("quarantined-rows", "Rows not read"))
    sections.append(Section("stages", "Stages", tuple(Section(f"stage-{name}", name) for name in artifacts)))
    if evaluation is not None:
        parts = [Section("tasks", "Tasks")] if evaluation.tasks else []
        sections.append(Section("models", "Models side by side", tuple(parts)))
        if evaluation.samples:
            sections.append(Section("answers", "Sample answers"))
    return sections


def failing_gates(gates: Mapping[str, Sequence[Reading]]) -> list[str]:
    """Each gate that does not hold, as a sentence without a full stop."""
    return [
        f"{stage}: {words(reading.figure)} is {figure(reading.value)} and must be"
        f" {'below' if reading.wanted == 'lower' else 'above'} {figure(reading.bound)}"
        for stage, rows in gates.items()
        for reading in rows
        if not reading.holds
    ]


def evaluated_roles(artifacts: Mapping[str, Artifact]) -> list[str]:
    """The models that the run's evaluation compares: the baseline first, then in the order in which they were made."""
    evaluation = next((a.manifest for a in artifacts.values() if a.manifest.kind == "evaluate"), None)
    if evaluation is None:
        return []
    made = {artifact.manifest.fingerprint: position for position, artifact in enumerate(artifacts.values())}
    roles = list(evaluation.metrics["models"])
    baseline = evaluation.metrics.get("baseline")

    def place(role: str) -> tuple[bool, int]:
        return (role != baseline, made.get(evaluation.inputs.get(f"models.{role}", ""), len(made)))

    return sorted(roles, key=place)


def evaluation_figures(evaluation: Mapping[str, Any] | None) -> list[str]:
    """The figures that any model of an evaluation has, in order of appearance."""
    if evaluation is None:
        return []
    return list(dict.fromkeys(key for figures in evaluation["models"].values() for key in figures))


def plain_metrics(artifact: Artifact) -> dict[str, Any]:
    """The figures of a stage that are a number or a word each."""
    if artifact.manifest.kind == "evaluate":
        return {}
    return {k: v for k, v in artifact.manifest.metrics.items() if v is None or isinstance(v, str | int | float)}


def metric_tables(kind: str, metrics: Mapping[str, Any]) -> list[MetricTable]:
    """What a kind of stage shows of its metrics as tables; those that are missing or empty are left out."""
    tables = STAGE_KINDS[kind].figures.tables if kind in STAGE_KINDS else ()
    found = []
    for table in tables:
        value = metrics.get(table.key)
        rows = [{"": name, "count": count} for name, count in value.items()] if isinstance(value, Mapping) else value
        if rows:
            found.append(MetricTable(table.title, list(rows[0]), [list(row.values()) for row in rows]))
    return found


def _quarantined_rows(artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Rows that other stages than conversations could not take; stages that read one file quarantine the same ones.

    Of too many to show, those of every file and reason are shown in turn.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for artifact in artifacts.values():
        for file in artifact.files() if artifact.manifest.kind != KIND else ():
            if file.name == QUARANTINE_FILE:
                rows = storage.read_table(artifact.path(file.name)).to_pylist()
                found |= {(row["uri"], row["offset"]): row for row in rows}
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for row in found.values():
        turns.append(seen[row["uri"], row["reason"]])
        seen[row["uri"], row["reason"]] += 1
    shown = set(sorted(range(len(turns)), key=turns.__getitem__)[:MAX_QUARANTINED])
    return [row for position, row in enumerate(found.values()) if position in shown]


def _input_names(name: str, artifacts: Mapping[str, Artifact]) -> list[str]:
    wanted = set(artifacts[name].manifest.inputs.values())
    return [other for other, artifact in artifacts.items() if artifact.manifest.fingerprint in wanted]
