"""The report's sections on an evaluation: figures of all models with intervals, tasks, and answers side by side.

Each figure of a model that is not the baseline says whether it is better or worse than the baseline's, where the
interval of their difference, item by item, leaves 0 out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.contracts.artifacts import Artifact
from cluster.report.page import words
from cluster.report.text_differences import marked_differences

_TASK = "task/"
_ORDER = (
    "heldout_loss",
    "heldout_bits_per_byte",
    "heldout_answer_loss",
    "heldout_answer_bits_per_byte",
    "preference_accuracy",
    "reward_mean",
    "reward_win_rate",
    "judged_win_rate",
    "finished_fraction",
    "mean_answer_tokens",
    "distinct_answer_fraction",
    "num_sampled_answers",
    "num_parameters",
)
"""Figures as the table has them; others follow."""


@dataclass(frozen=True)
class Cell:
    """One figure of one model."""

    value: float | int | None
    interval: tuple[float, float] | None = None
    outcome: str | None = None  # "better" or "worse" than the baseline's


@dataclass(frozen=True)
class FigureRow:
    """One figure over all models."""

    name: str
    cells: list[Cell]
    is_group: bool = False  # of some items of the row above it
    num_items: int | None = None


@dataclass(frozen=True)
class Answer:
    """What one model answers; parts are (text, whether the baseline's answer lacks it)."""

    model: str
    parts: list[tuple[str, bool]]
    same_as_baseline: bool


@dataclass(frozen=True)
class Sample:
    """A prompt with the answers of all models."""

    prompt: str
    greedy: list[Answer]
    sampled: list[Answer]


@dataclass(frozen=True)
class Evaluation:
    """What the templates show."""

    models: list[str]
    baseline: str | None
    confidence: str  # "95%"
    figures: list[FigureRow]
    tasks: dict[str, list[FigureRow]]  # title -> rows
    differences: list[dict[str, Any]]
    samples: list[Sample]
    several_tokenizers: bool
    num_quarantined: int
    quarantined_by_reason: Mapping[str, int]


def evaluation_section(artifacts: Mapping[str, Artifact], models: Sequence[str]) -> Evaluation | None:
    """The run's evaluation, its models in the order `models`; None where there is none."""
    manifest = next((a.manifest for a in artifacts.values() if a.manifest.kind == "evaluate"), None)
    if manifest is None:
        return None
    metrics = manifest.metrics
    baseline = metrics.get("baseline")
    rows = _rows(metrics, models)
    tasks: dict[str, list[FigureRow]] = {}
    for figure, row in rows.items():
        if figure.startswith(_TASK):
            name = figure.split("/")[1]
            described = metrics["tasks"][name]
            title = f"{name}: {words(described['kind'])}, {described['num_items']} items"
            tasks.setdefault(title, []).append(row)
    return Evaluation(
        models=list(models),
        baseline=baseline,
        confidence=f"{100 * metrics.get('confidence', 0.95):g}%",
        figures=[row for figure, row in rows.items() if not figure.startswith(_TASK)],
        tasks=tasks,
        differences=[
            {**row, "figure": ", ".join(words(part) for part in row["figure"].removeprefix(_TASK).split("/"))}
            for row in sorted(
                metrics.get("differences", ()), key=lambda row: (models.index(row["model"]), _place(row["figure"]))
            )
        ],
        samples=[_sample(sample, models, baseline) for sample in metrics["samples"]],
        several_tokenizers=len(set(metrics.get("vocabularies", {}).values())) > 1,
        num_quarantined=metrics.get("num_quarantined", 0),
        quarantined_by_reason=metrics.get("quarantined_by_reason", {}),
    )


def _rows(metrics: Mapping[str, Any], models: Sequence[str]) -> dict[str, FigureRow]:
    outcomes = {(row["model"], row["figure"]): row["outcome"] for row in metrics.get("differences", ())}
    rows = {}
    for figure in sorted({figure for name in models for figure in metrics["models"][name]}, key=_place):
        cells = []
        for name in models:
            bounds = metrics.get("intervals", {}).get(name, {}).get(figure)
            cells.append(
                Cell(
                    value=metrics["models"][name].get(figure),
                    interval=None if bounds is None else (bounds[0], bounds[1]),
                    outcome=outcomes.get((name, figure)),
                )
            )
        counts = metrics.get("num_items", {}).get(figure, {}).values()
        is_group = figure.startswith(_TASK) and figure.count("/") > 2
        rows[figure] = FigureRow(_figure_name(figure), cells, is_group, max(counts) if counts else None)
    return rows


def _figure_name(figure: str) -> str:
    """ "task/hhh/accuracy/honest" is "honest" in its task's table; other figures in words."""
    return words(figure.rsplit("/", 1)[-1] if figure.startswith(_TASK) else figure)


def _place(figure: str) -> tuple[int, str]:
    return (_ORDER.index(figure) if figure in _ORDER else len(_ORDER), figure)


def _sample(sample: Mapping[str, Any], models: Sequence[str], baseline: str | None) -> Sample:
    return Sample(
        sample["prompt"],
        _answers(sample["answers"], models, baseline),
        _answers(sample.get("sampled_answers", {}), models, baseline),
    )


def _answers(answers: Mapping[str, str], models: Sequence[str], baseline: str | None) -> list[Answer]:
    reference = answers.get(baseline) if baseline is not None else None
    found = []
    for name in models:
        if name not in answers:
            continue
        text = answers[name]
        if reference is None or name == baseline:
            found.append(Answer(name, [(text, False)], same_as_baseline=False))
        else:
            found.append(Answer(name, marked_differences(reference, text)[1], same_as_baseline=text == reference))
    return found
