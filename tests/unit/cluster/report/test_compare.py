"""Two runs side by side: what differs is shown, what is the same is named, in the page and in the JSON alike."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.contracts.artifacts import Artifact
from cluster.contracts.errors import InputError
from cluster.report.compare import (
    answer_pairs,
    compare,
    document_counts,
    setting_differences,
    write_comparison,
)
from cluster.report.text_differences import marked_differences
from cluster.run_record import RunRecord, RunStage
from tests.unit.cluster.report.small_run import make_other_run, make_run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunRecord, RunRecord]:
    return make_run(tmp_path / "a"), make_other_run(tmp_path / "b")


def test_only_settings_that_differ_are_listed() -> None:
    first: dict[str, Any] = {"name": "a", "storage": "x", "seed": 1, "stages": {
        "clean": {"languages": ["en"], "c4": {"mode": "filter"}}, "dpo": {"beta": 0.1, "lr": 1}}}  # fmt: skip
    second: dict[str, Any] = {"name": "b", "storage": "y", "seed": 1, "stages": {
        "clean": {"languages": ["en", "de"], "c4": None, "pii": None}, "ppo": {"lr": 1}}}  # fmt: skip
    found = {each.setting: (each.values, each.present) for each in setting_differences(first, second)}
    assert found == {
        "stages.clean.languages": ((["en"], ["en", "de"]), (True, True)),
        "stages.clean.c4": (({"mode": "filter"}, None), (True, True)),
        "stages.clean.pii": ((None, None), (False, True)),
        "stages.dpo": ((None, None), (True, False)),
        "stages.ppo": ((None, None), (False, True)),
    }
    assert setting_differences(first, first) == []


def test_each_stage_is_the_same_artifact_or_says_why_not(runs: tuple[RunRecord, RunRecord]) -> None:
    first, second = runs
    found = {each.stage: each.why for each in compare(first, second).stages}
    assert found == {
        "clean": "the same artifact",
        "dedupe": "the same artifact",
        "pretrain": "1 of its settings differs",
        "evaluate": "made from other artifacts: models.base",
    }
    unfinished = {name: replace(stage, finished=name != "pretrain") for name, stage in second.stages.items()}
    unfinished["ppo"] = RunStage("ppo", "nowhere", "x", False)
    found = {each.stage: each.why for each in compare(first, replace(second, stages=unfinished)).stages}
    assert found["pretrain"] == "not finished in other"
    assert found["ppo"] == "only in other"
    same_spec = replace(second, spec={**first.spec, "name": "other"})
    found = {each.stage: each.why for each in compare(first, same_spec).stages}
    assert found["pretrain"].startswith("the same settings and stages before it; the seed, raw inputs or")


def test_figures_and_gates_stand_side_by_side_with_their_difference(runs: tuple[RunRecord, RunRecord]) -> None:
    found = compare(*runs)
    figures = {(f.stage, f.model, f.figure): (f.values, f.difference) for f in found.figures}
    assert figures[("pretrain", None, "heldout_loss")] == ((5.0, 5.75), 0.75)
    assert figures[("evaluate", "base", "heldout_loss")] == ((5.0, 5.75), 0.75)
    assert figures[("evaluate", "sft", "reward")] == ((1.0, 1.0), 0.0)
    assert not any(f.stage == "clean" for f in found.figures)  # the same artifact
    (gate,) = found.gates
    assert [reading.holds for reading in gate.readings if reading] == [True, False]


def _with_dropped(artifacts: dict[str, Artifact], dropped: dict[str, int], kept: int) -> dict[str, Artifact]:
    clean = artifacts["clean"]
    metrics = {**clean.manifest.metrics, "dropped": dropped, "kept": kept}
    manifest = replace(clean.manifest, metrics=metrics)
    return {"clean": replace(clean, manifest=manifest)}


def test_documents_stand_side_by_side_with_losses_that_only_one_run_has(tmp_path: Path) -> None:
    artifacts = make_run(tmp_path).artifacts()
    first = _with_dropped(artifacts, {"too_short": 3}, 6)
    second = _with_dropped(artifacts, {"too_short": 1, "language": 1}, 7)
    rows = document_counts((first, second))
    assert [(row.name, row.kind, row.counts) for row in rows] == [
        ("read", "total", (10, 10)),
        ("too_short", "lost", (3, 1)),
        ("quarantined", "lost", (1, 1)),
        ("language", "lost", (0, 1)),
        ("left after clean", "total", (6, 7)),
    ]
    assert rows[1].widths == (0.3, 0.1)
    assert document_counts((first, first)) == []


def test_answers_to_the_same_prompts_are_marked_where_they_differ(runs: tuple[RunRecord, RunRecord]) -> None:
    first, second = (run.artifacts() for run in runs)
    pairs = {pair.model: pair for pair in answer_pairs((first, second))}
    assert pairs["sft"].is_same
    assert pairs["base"].parts == ([("yo", False)], [("yo", False), (" <i>you</i>", True)])
    assert answer_pairs((first, first)) == []  # the same artifact


def test_marked_parts_put_together_are_the_texts() -> None:
    first, second = "I am not a bot\nof Python.", "I am  never a bot of  Python."
    a, b = marked_differences(first, second)
    assert ("".join(text for text, _ in a), "".join(text for text, _ in b)) == (first, second)
    assert (" not", True) in a
    assert "".join(text for text, differs in a if not differs) == "".join(t for t, differs in b if not differs)
    long = "word " * 5000
    assert marked_differences(long, long + "x") == ([(long, False)], [(long + "x", False)])


def test_the_page_and_the_json_lie_in_the_first_runs_directory(runs: tuple[RunRecord, RunRecord]) -> None:
    first, second = runs
    place = Path(write_comparison(first, second))
    assert place == Path(first.storage) / "runs" / "demo" / "against-other" / "comparison.html"
    page = place.read_text()
    assert "demo: 1 of 1 gate holds" in page
    assert "other: 0 of 1 gate holds" in page
    assert "The same artifact in both runs: clean, dedupe." in page
    assert "The documents of both runs are the same" in page
    assert "Training loss ends at 2 in demo and at 2.25 in other, higher by 0.25." in page
    assert "<dd>yo<mark> &lt;i&gt;you&lt;/i&gt;</mark></dd>" in page
    assert "sft, the same in both" in page
    figures = json.loads(place.with_suffix(".json").read_text())
    assert [run["name"] for run in figures["runs"]] == ["demo", "other"]
    assert figures["settings"] == [{"setting": "stages.pretrain.lr", "values": [0.1, 0.2], "present": [True, True]}]
    assert [stage["is_same_artifact"] for stage in figures["stages"]] == [True, True, False, False]
    assert [reading["holds"] for reading in figures["gates"][0]["readings"]] == [True, False]
    assert figures["figures"][0] == {
        "stage": "pretrain", "model": None, "figure": "heldout_loss", "values": [5.0, 5.75], "difference": 0.75,
    }  # fmt: skip


def test_the_page_goes_where_it_is_wanted_and_the_json_beside_it(
    runs: tuple[RunRecord, RunRecord], tmp_path: Path
) -> None:
    assert write_comparison(*runs, str(tmp_path / "out.html")) == str(tmp_path / "out.html")
    assert json.loads((tmp_path / "out.json").read_text())["answers"]
    with pytest.raises(InputError, match=r"out\.txt must end in \.html"):
        write_comparison(*runs, str(tmp_path / "out.txt"))


def test_a_run_is_not_compared_with_itself_but_with_one_of_its_name_elsewhere(
    runs: tuple[RunRecord, RunRecord], tmp_path: Path
) -> None:
    first, second = runs
    with pytest.raises(InputError, match="demo was given twice"):
        write_comparison(first, first)
    namesake = replace(second, name="demo")
    page = Path(write_comparison(first, namesake, str(tmp_path / "o.html"))).read_text()
    assert f"demo in {second.storage}" in page


def test_runs_of_which_one_has_nothing_yet_are_compared_too(runs: tuple[RunRecord, RunRecord]) -> None:
    first, second = runs
    nothing = {name: replace(stage, finished=False) for name, stage in second.stages.items()}
    page = Path(write_comparison(first, replace(second, stages=nothing))).read_text()
    assert "other: no gate is judged yet" in page
    assert "Only demo has it." in page
