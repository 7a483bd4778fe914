"""A kind of stage from outside the packages: one folder, and one line that names it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

KIND = '''
from typing import Annotated, Literal

from cluster.contracts.config import InputFiles, StageConfig
from cluster.contracts.stage_kind import Curve, Gate, ReportFigures, StageKind


class WordCountConfig(StageConfig):
    """Counts words."""

    kind: Literal["word_count"] = "word_count"
    inputs: Annotated[list[str], InputFiles()]
    """The text files."""
    ignore_case: bool = True
    """Whether "The" and "the" are one word."""


WORD_COUNT = StageKind(
    config=WordCountConfig,
    function="word_count.stage:run",
    summary="count the words of text files",
    figures=ReportFigures(
        headline=("words", "distinct"),
        gates=(Gate("distinct", "lower", "words"),),
        curves=(Curve("words", "words so far"),),
    ),
)
'''

STAGE = """
import hashlib
import json

from cluster.contracts import storage
from cluster.contracts.artifacts import StageResult
from cluster.contracts.commit import WrittenFile


def run(config, inputs, output, context):
    words, rows = [], []
    for number, pattern in enumerate(config.inputs):
        for file in storage.expand(pattern):
            text = storage.read_bytes(file.uri).decode()
            words += (text.lower() if config.ignore_case else text).split()
            rows.append({"step": number, "words": len(words)})
    content = b"".join(json.dumps(row).encode() + b"\\n" for row in rows)
    storage.write_bytes(storage.join(output, "metrics.jsonl"), content)
    file = WrittenFile("metrics.jsonl", len(content), hashlib.sha256(content).hexdigest())
    return StageResult({"words": len(words), "distinct": len(set(words))}, [file])
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package of somebody else's, as an installer leaves it: a folder, and the line in its metadata."""
    site = tmp_path / "site"
    (site / "word_count").mkdir(parents=True)
    (site / "word_count" / "__init__.py").touch()
    (site / "word_count" / "kind.py").write_text(KIND)
    (site / "word_count" / "stage.py").write_text(STAGE)
    metadata = site / "word_count-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: word-count\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[raymill.stage_kinds]\nword_count = word_count.kind:WORD_COUNT\n")
    return site


def raymill(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{site}", "HOME": str(site.parent), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=site.parent, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def test_a_kind_of_another_package_runs_and_is_shown_like_any_other(package: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("To be or not to be")
    (tmp_path / "b.txt").write_text("that is the question")
    (tmp_path / "spec.yaml").write_text(
        "name: counting\nstorage: store\nresources: {cpus: 1, memory_gib: 0.1, disk_gib: 0.1}\n"
        "stages:\n  word_count: {inputs: [a.txt, b.txt]}\n"
    )
    explained = raymill(package, "explain", "word_count")
    assert explained.returncode == 0, explained.stderr
    assert "ignore_case" in explained.stdout
    assert 'Whether "The" and "the" are one word.' in " ".join(explained.stdout.split())
    done = raymill(package, "run", "spec.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "words 10 · distinct 8" in done.stdout
    report = json.loads((tmp_path / "store" / "runs" / "counting" / "report.json").read_text())
    assert report["stages"]["word_count"]["metrics"] == {"words": 10, "distinct": 8}
    page = (tmp_path / "store" / "runs" / "counting" / "report.html").read_text()
    assert "Words so far rise" in page
    again = raymill(package, "run", "spec.yaml", "--set", "stages.word_count.ignore_case=false")
    assert "words 10 · distinct 9" in again.stdout


def test_a_broken_kind_of_another_package_is_named_where_it_is_asked_for(package: Path, tmp_path: Path) -> None:
    (package / "word_count" / "kind.py").write_text("import not_installed_here")
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "spec.yaml").write_text("name: counting\nstorage: store\nstages:\n  word_count: {inputs: [a.txt]}\n")
    assert raymill(package, "explain").returncode == 0
    refused = raymill(package, "plan", "spec.yaml")
    assert refused.returncode == 2
    assert "word_count.kind:WORD_COUNT can't be imported" in refused.stderr
    assert "not_installed_here" in refused.stderr
