"""What is shown of conversations adds up, names lines, and holds nothing that a terminal could act on."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.contracts.artifacts import Artifact, Manifest, write_manifest
from cluster.report.write import write_report
from cluster.run_record import RunRecord, RunStage, write_run
from tests.chat_fixtures import conversation
from tests.unit.training.conversations.test_stage import run_stage, write_rows

HOSTILE = "<script>alert(1)</script> \x1b[31mred"


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the run "talks" of one conversations stage of two sets."""
    root = tmp_path_factory.mktemp("storage")
    rows = [
        *map(conversation, range(20)),
        conversation(3),
        conversation(4),
        conversation(5),
        "{broken",
        "{too",
        "{three",
    ]
    rows.append({"messages": [{"role": "user", "content": HOSTILE}]})
    sets = {
        "a": {"inputs": [write_rows(root / "a.jsonl", rows)]},
        "b": {"inputs": [write_rows(root / "b.jsonl", [conversation(50)])], "weight": 2},
    }
    output = root / "conversations" / "0"
    result = run_stage(output, sets=sets)
    manifest = Manifest("conversations", "0", {}, {}, metrics=result.metrics)
    write_manifest(str(output), manifest, result.files)
    stages = {"talk_rows": RunStage("conversations", str(output), "0", True)}
    write_run(RunRecord("talks", {"storage": str(root), "name": "talks", "stages": {}}, stages))
    assert Artifact(str(output), manifest).files()
    return root


def inspect(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["inspect", *arguments], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.output


def test_counts_add_up_and_every_reason_has_its_examples(run_directory: Path) -> None:
    shown = inspect("talks", "--storage", str(run_directory), "--stage", "talk_rows", "--examples", "2")
    counts = {name.strip(): int(count) for name, count in re.findall(r"^ *([a-z_ ]+?)  +(\d+)", shown, re.MULTILINE)}
    assert counts["read"] == 28 == counts["training"] + counts["held out"] + counts["dropped"] + counts["quarantined"]
    assert (counts["dropped"], counts["duplicate"], counts["bad_json"], counts["no_answer"]) == (3, 3, 3, 1)
    assert (counts["a"], counts["b"]) == (27, 1)
    assert shown.count("a.jsonl, line ") == 5, "two of duplicate, two of bad_json, one of no_answer"
    assert "a.jsonl, line 24" in shown
    assert "\x1b[31m" not in shown
    assert inspect("talks", "--storage", str(run_directory), "--examples", "2") == shown
    assert inspect(str(run_directory / "conversations" / "0"), "--examples", "2") == shown


def test_what_is_not_there_is_refused(run_directory: Path) -> None:
    for more, message in ((["--stage", "sft"], "no finished stage 'sft'"), (["--url", "http://a"], "have no URL")):
        result = CliRunner().invoke(app, ["inspect", "talks", "--storage", str(run_directory), *more])
        assert message in str(result.exception)


def test_the_report_shows_sets_reasons_and_examples_escaped(run_directory: Path) -> None:
    record = RunRecord(
        "talks",
        {"storage": str(run_directory), "name": "talks", "stages": {}},
        {"talk_rows": RunStage("conversations", str(run_directory / "conversations" / "0"), "0", True)},
    )
    page = Path(write_report(record)).read_text()
    section = page.partition('<section id="conversations">')[2].partition("</section>")[0]
    assert "28 rows read" in section
    assert "a.jsonl, line 24" in section
    assert "bad_json" in section
    assert "&lt;script&gt;" in section
    assert "<script>alert" not in page
    figures = json.loads((run_directory / "runs" / "talks" / "report.json").read_text())
    by_set = figures["stages"]["talk_rows"]["metrics"]["by_set"]
    assert by_set["b"]["train"] == 2 * by_set["b"]["distinct_train"]
    for counts in by_set.values():
        assert f'<td class="n">{counts["read"]}</td>' in section
