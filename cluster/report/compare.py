"""Two runs side by side: `comparison.html` for people, `comparison.json` with the same figures for programs.

What differs is shown, and only that: a stage that is the same artifact in both runs is named and left at that.
Stages are matched by their name in the spec. In every pair of values the first run's stands first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact
from cluster.contracts.errors import InputError
from cluster.report.curves import stage_plots
from cluster.report.documents import funnel
from cluster.report.gates import Reading, readings
from cluster.report.page import Section, render
from cluster.report.text_differences import marked_differences
from cluster.report.write import evaluated_roles, evaluation_figures, failing_gates
from cluster.run_record import RunRecord, run_uri
from cluster.stage_kinds import STAGE_KINDS

_NO_SETTINGS = ("name", "storage")  # of a spec: they say which run it is and where it lies

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class SettingDifference:
    """A setting with another value in each run; or a stage or setting that only one of them has."""

    setting: str  # "stages.dpo.beta"
    values: Pair  # None also where a run has no such setting
    present: tuple[bool, bool]


@dataclass(frozen=True)
class StageDifference:
    """How one stage of the two runs is related."""

    stage: str
    kinds: Pair
    fingerprints: Pair  # None where a run has not made it
    is_same_artifact: bool
    why: str  # "the same artifact", or why it is another


@dataclass(frozen=True)
class FigureDifference:
    """A figure that a stage which differs shows in its headline, or that an evaluation has of a model."""

    stage: str
    model: str | None  # of an evaluation
    figure: str
    values: Pair
    difference: float | None  # second minus first, where both are numbers


@dataclass(frozen=True)
class GatePair:
    """One gate, as it stands in each run; None where a run has not the figures that it needs."""

    stage: str
    figure: str
    readings: tuple[Reading | None, Reading | None]


@dataclass(frozen=True)
class DocumentCount:
    """A row of both funnels: how many records in each run, and as what fraction of the larger corpus (for bars)."""

    name: str
    kind: Literal["total", "lost"]
    counts: tuple[int, int]
    widths: tuple[float, float]


@dataclass(frozen=True)
class AnswerPair:
    """What one model of both evaluations answers to one prompt; the parts are (text, whether it differs)."""

    prompt: str
    model: str
    answers: tuple[str, str]
    parts: tuple[list[tuple[str, bool]], list[tuple[str, bool]]]

    @property
    def is_same(self) -> bool:
        """Whether both runs answer alike."""
        return self.answers[0] == self.answers[1]


def write_comparison(first: RunRecord, second: RunRecord, output: str | None = None) -> str:
    """Write the page and, beside it, the JSON; returns the URI of the page.

    `output`: where the page goes, a path or URI that ends in .html; without it into the first run's directory, as
    `against-SECOND/comparison.html`. Raises `InputError` for two times the same run and for another ending.
    """
    if (first.name, first.storage) == (second.name, second.storage):
        raise InputError(f"{first.name} was given twice; name two different runs to compare them")
    if output is not None and not output.endswith(".html"):
        raise InputError(f"--output {output} must end in .html; the figures go beside it in a .json file")
    page = output or run_uri(first.storage, first.name, f"against-{second.name}", "comparison.html")
    found = compare(first, second)
    figures = found.as_json()
    storage.write_bytes(page.removesuffix(".html") + ".json", json.dumps(figures, indent=2, default=str).encode())
    storage.write_bytes(page, _render(found).encode())
    return page


@dataclass(frozen=True)
class Comparison:
    """Two runs and all that differs between them."""

    runs: tuple[RunRecord, RunRecord]
    artifacts: tuple[Mapping[str, Artifact], Mapping[str, Artifact]]
    settings: list[SettingDifference]
    stages: list[StageDifference]
    figures: list[FigureDifference]
    gates: list[GatePair]
    documents: list[DocumentCount]  # empty where neither run has any, or both have the same artifacts
    answers: list[AnswerPair]

    @property
    def names(self) -> tuple[str, str]:
        """What each run is called: its name, and its storage too where the names are the same."""
        first, second = self.runs
        if first.name != second.name:
            return first.name, second.name
        return f"{first.name} in {first.storage}", f"{second.name} in {second.storage}"

    def as_json(self) -> dict[str, Any]:
        """What `comparison.json` holds."""
        return {
            "runs": [{"name": run.name, "storage": run.storage} for run in self.runs],
            "settings": [asdict(each) for each in self.settings],
            "stages": [asdict(each) for each in self.stages],
            "figures": [asdict(each) for each in self.figures],
            "gates": [
                {
                    "stage": pair.stage,
                    "figure": pair.figure,
                    "readings": [r and {**asdict(r), "holds": r.holds} for r in pair.readings],
                }
                for pair in self.gates
            ],
            "documents": [{"name": d.name, "kind": d.kind, "counts": d.counts} for d in self.documents],
            "answers": [
                {"prompt": a.prompt, "model": a.model, "answers": a.answers, "is_same": a.is_same} for a in self.answers
            ],
        }


def compare(first: RunRecord, second: RunRecord) -> Comparison:
    """All that differs between two runs, finished or not."""
    artifacts = (first.artifacts(), second.artifacts())
    settings = setting_differences(first.spec, second.spec)
    stages = stage_differences((first, second), artifacts, settings)
    roles = list(dict.fromkeys(role for each in artifacts for role in evaluated_roles(each)))
    changed = [stage.stage for stage in stages if not stage.is_same_artifact]
    return Comparison(
        (first, second),
        artifacts,
        settings,
        stages,
        [
            figure
            for stage in changed
            for figure in _figures(stage, artifacts[0].get(stage), artifacts[1].get(stage), roles)
        ],
        _gates(artifacts),
        document_counts(artifacts),
        answer_pairs(artifacts),
    )


def setting_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[SettingDifference]:
    """The settings of two resolved specs that differ. A stage that only one has is one entry, without its settings."""

    def walk(path: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[SettingDifference]:
        for key in dict.fromkeys([*a, *b]):
            here = f"{path}.{key}" if path else key
            if here in _NO_SETTINGS:
                continue
            left, right = a.get(key), b.get(key)
            if key not in a or key not in b:
                values = (None, None) if path == "stages" else (left, right)
                yield SettingDifference(here, values, (key in a, key in b))
            elif isinstance(left, Mapping) and isinstance(right, Mapping):
                yield from walk(here, left, right)
            elif left != right:
                yield SettingDifference(here, (left, right), (True, True))

    return list(walk("", first, second))


def stage_differences(
    runs: tuple[RunRecord, RunRecord],
    artifacts: tuple[Mapping[str, Artifact], Mapping[str, Artifact]],
    settings: Sequence[SettingDifference],
) -> list[StageDifference]:
    """Each stage of either run, in the first one's order: the same artifact, or why not."""
    found = []
    for name in dict.fromkeys([*runs[0].stages, *runs[1].stages]):
        stages = [run.stages.get(name) for run in runs]
        made = [each.get(name) for each in artifacts]
        fingerprints = [artifact and artifact.manifest.fingerprint for artifact in made]
        a, b = made
        is_same = a is not None and b is not None and fingerprints[0] == fingerprints[1]
        own = [s.setting for s in settings if s.setting.startswith(f"stages.{name}.")]
        if is_same:
            why = "the same artifact"
        elif None in stages:
            why = f"only in {runs[stages.index(None) ^ 1].name}"
        elif None in made:
            why = f"not finished in {' and '.join(run.name for run, m in zip(runs, made, strict=True) if m is None)}"
        elif own:
            why = f"{len(own)} of its settings differ{'s' if len(own) == 1 else ''}"
        elif a is not None and b is not None and a.manifest.inputs != b.manifest.inputs:
            roles = dict.fromkeys([*a.manifest.inputs, *b.manifest.inputs])
            other = [role for role in roles if a.manifest.inputs.get(role) != b.manifest.inputs.get(role)]
            why = f"made from other artifacts: {', '.join(other)}"
        else:
            why = "the same settings and stages before it; the seed, raw inputs or the code's version differ"
        kinds = tuple(stage and stage.kind for stage in stages)
        found.append(StageDifference(name, kinds, tuple(fingerprints), is_same, why))  # type: ignore[arg-type]
    return found


def _figures(
    stage: str, first: Artifact | None, second: Artifact | None, roles: Sequence[str]
) -> Iterator[FigureDifference]:
    """The headline figures of a stage that either run has made; of an evaluation those of every model."""
    kinds = {artifact.manifest.kind for artifact in (first, second) if artifact is not None}
    if len(kinds) != 1:
        return
    (kind,) = kinds
    metrics = [artifact.manifest.metrics if artifact is not None else {} for artifact in (first, second)]
    if kind == "evaluate":
        models = [each.get("models", {}) for each in metrics]
        for model in roles:
            figures = evaluation_figures({"models": {i: m[model] for i, m in enumerate(models) if model in m}})
            for figure in figures:
                yield _figure(stage, model, figure, *(m.get(model, {}).get(figure) for m in models))
    elif kind in STAGE_KINDS:
        for figure in STAGE_KINDS[kind].figures.headline:
            values = [each.get(figure) for each in metrics]
            if values != [None, None]:
                yield _figure(stage, None, figure, *values)


def _figure(stage: str, model: str | None, figure: str, first: Any, second: Any) -> FigureDifference:
    numbers = isinstance(first, int | float) and isinstance(second, int | float)
    return FigureDifference(stage, model, figure, (first, second), second - first if numbers else None)


def _readings(artifacts: Mapping[str, Artifact]) -> dict[str, list[Reading]]:
    return {name: readings(a.manifest.kind, a.manifest.metrics) for name, a in artifacts.items()}


def _gates(artifacts: tuple[Mapping[str, Artifact], Mapping[str, Artifact]]) -> list[GatePair]:
    """Every gate that is judged in either run."""
    first, second = (
        {(stage, r.figure, r.against): r for stage, rows in _readings(each).items() for r in rows} for each in artifacts
    )
    keys = dict.fromkeys([*first, *second])
    return [GatePair(key[0], key[1], (first.get(key), second.get(key))) for key in keys]


def document_counts(artifacts: tuple[Mapping[str, Artifact], Mapping[str, Artifact]]) -> list[DocumentCount]:
    """Both funnels, row by row; empty where both are of the same artifacts, or neither run has documents."""
    funnels = [funnel(each) for each in artifacts]
    if funnels[0] == funnels[1]:
        return []
    rows: dict[tuple[str, str], list[int]] = {}
    for number, each in enumerate(funnels):
        bars = [("", each.read), *((s.stage, bar) for s in each.steps for bar in [*s.lost, s.left])]
        for stage, bar in bars:
            rows.setdefault((stage, bar.name), [0, 0])[number] = bar.count
    widest = max(1, *rows[("", "read")])
    # A loss that only the second run has comes last above; it stands before what its stage leaves.
    stages = list(dict.fromkeys(stage for stage, _ in rows))
    ordered = sorted(rows, key=lambda key: (stages.index(key[0]), key[1] == f"left after {key[0]}"))
    return [
        DocumentCount(
            name,
            "total" if name in ("read", f"left after {stage}") else "lost",
            (rows[stage, name][0], rows[stage, name][1]),
            (rows[stage, name][0] / widest, rows[stage, name][1] / widest),
        )
        for stage, name in ordered
    ]


def answer_pairs(artifacts: tuple[Mapping[str, Artifact], Mapping[str, Artifact]]) -> list[AnswerPair]:
    """The greedy answers to the prompts that both evaluations show, of the models that both have."""
    evaluations = [
        next((a.manifest for a in each.values() if a.manifest.kind == "evaluate"), None) for each in artifacts
    ]
    first, second = evaluations
    if first is None or second is None or first.fingerprint == second.fingerprint:
        return []
    of_second = {sample["prompt"]: sample["answers"] for sample in second.metrics["samples"]}
    pairs = []
    for sample in first.metrics["samples"]:
        others = of_second.get(sample["prompt"], {})
        for role in evaluated_roles(artifacts[0]):
            if role in sample["answers"] and role in others:
                answers = (sample["answers"][role], others[role])
                pairs.append(AnswerPair(sample["prompt"], role, answers, marked_differences(*answers)))
    return pairs


def _render(found: Comparison) -> str:
    names = found.names
    plots = {}
    for stage in found.stages:
        a, b = (each.get(stage.stage) for each in found.artifacts)
        if a is not None and b is not None and a.manifest.kind == b.manifest.kind and not stage.is_same_artifact:
            plots[stage.stage] = stage_plots(stage.stage, [a, b], names)
    plots = {stage: drawn for stage, drawn in plots.items() if drawn}
    prompts: dict[str, list[AnswerPair]] = {}
    for answer in found.answers:
        prompts.setdefault(answer.prompt, []).append(answer)
    figures: dict[str, list[FigureDifference]] = {}
    for row in found.figures:
        if row.values[0] != row.values[1]:
            figures.setdefault(f"{row.stage}: {row.model}" if row.model else row.stage, []).append(row)
    gates = [_readings(each) for each in found.artifacts]
    sections = [
        Section("gates", "What must hold"),
        Section("settings", "Settings that differ"),
        Section("stages", "Stages"),
        *([Section("figures", "Figures")] if found.figures else []),
        Section("documents", "Documents"),
        *([Section("curves", "Curves", tuple(Section(f"curves-{s}", s) for s in plots))] if plots else []),
        Section("answers", "Sample answers"),
    ]
    return render(
        "comparison.html.j2",
        title=f"{names[0]} and {names[1]}",
        contents=sections,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        names=names,
        found=found,
        same=[stage.stage for stage in found.stages if stage.is_same_artifact],
        judged_runs=[
            {"name": name, "total": sum(map(len, rows.values())), "failing": failing_gates(rows)}
            for name, rows in zip(names, gates, strict=True)
        ],
        plots=plots,
        prompts=prompts,
        figures=figures,
        owners={of: _owner(rows, names) for of, rows in figures.items()},
        num_equal_figures=len(found.figures) - sum(map(len, figures.values())),
    )


def _owner(rows: Sequence[FigureDifference], names: tuple[str, str]) -> str | None:
    """The one run that has all of these figures while the other has none; None where both have some."""
    for name, other in ((names[0], 1), (names[1], 0)):
        if all(row.values[other] is None for row in rows):
            return name
    return None
