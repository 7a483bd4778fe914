"""The curves of a stage: what its kind draws of `metrics.jsonl`, beside what it is read against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact
from cluster.contracts.stage_kind import Curve
from cluster.report.page import words
from cluster.report.plots import Plot, Reference, Series, curve_plot, read_series, unique_ids
from cluster.stage_kinds import STAGE_KINDS


def stage_plots(name: str, artifacts: Sequence[Artifact], labels: Sequence[str] = ("",)) -> list[Plot]:
    """The plots of one stage, of one run or of two: the curves of `artifacts`, called `labels`, in each.

    A plot has all runs that have its figure; what only some of them have is drawn for these.
    """
    kind, metrics = STAGE_KINDS.get(artifacts[0].manifest.kind), artifacts[0].manifest.metrics
    rows = [metric_rows(artifact) for artifact in artifacts]
    plots = []
    for index, curve in enumerate(kind.figures.curves if kind is not None else ()):
        found = (read_series(each, curve.key, run) for each, run in zip(rows, labels, strict=True))
        series: list[Series] = [each for each in found if each is not None]
        if series:
            reference = _reference(curve, metrics) if len(artifacts) == 1 else None
            plots.append(unique_ids(curve_plot(series, curve.label, reference), f"{name}-{index}"))
    return plots


def metric_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of a stage's `metrics.jsonl`; none where it has no such file."""
    try:
        lines = storage.read_bytes(artifact.path("metrics.jsonl")).splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.strip()]


def _reference(curve: Curve, metrics: Mapping[str, Any]) -> Reference | None:
    value = metrics.get(curve.reference) if curve.reference is not None else None
    if curve.reference is None or value is None:
        return None
    return Reference(curve.reference_name or words(curve.reference), value)
