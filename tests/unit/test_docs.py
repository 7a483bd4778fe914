"""What the documents say about the code is true: quoted messages stand in it, links lead somewhere."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
GAP = "…"  # stands for what an f-string fills in
MESSAGES = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), flags=re.MULTILINE)


@cache
def _texts_of_the_source() -> tuple[str, ...]:
    """Every string of the packages, what an f-string fills in replaced by `GAP`."""
    found = []
    for package in ("cluster", "dataprep", "training", "serving"):
        for path in (ROOT / package).rglob("*.py"):
            found += [_text(node) for node in ast.walk(ast.parse(path.read_text()))]
    return tuple(text for text in found if text)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) or GAP for value in node.values)
    return ""


def _fits(quoted: str, text: str) -> bool:
    """Whether `text` holds the pieces of `quoted` one after the other; `GAP` stands for anything."""
    pieces = [re.escape(piece) for piece in quoted.split(GAP)]
    return re.search(".*?".join(pieces), text, flags=re.DOTALL) is not None


def test_a_message_that_the_source_does_not_have_would_be_found() -> None:
    assert not any(_fits("the stage … was eaten by a bear", text) for text in _texts_of_the_source())
    assert _fits("a … of …", f"a {GAP} of {GAP}, in words")
    assert not _fits("of … a", "a piece of it")


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_that_troubleshooting_quotes_stands_in_the_source(message: str) -> None:
    assert len(message.replace(GAP, "").strip()) >= 8, "too short to be told from others"
    assert any(_fits(message, text) for text in _texts_of_the_source())


def test_troubleshooting_covers_every_exit_code_of_a_deliberate_error() -> None:
    from cluster.contracts import errors

    codes = {error.exit_code for error in vars(errors).values() if hasattr(error, "exit_code")}
    table = (ROOT / "docs" / "troubleshooting.md").read_text().split("\n## ")[0]
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_index_of_decisions_names_every_topic() -> None:
    directory = ROOT / "docs" / "decisions"
    named = set(
        re.findall(r"^\| \[[\w-]+\]\(([\w-]+\.md)\)", (directory / "README.md").read_text(), flags=re.MULTILINE)
    )
    assert named == {path.name for path in directory.glob("*.md")} - {"README.md"}
