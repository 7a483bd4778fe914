"""What docstrings, comments and code in strings name is there: files in backticks, and modules of ours."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dataprep", "training", "serving", "cluster")
FOLDERS = (*PACKAGES, "benchmarks", "tests")
FILES = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
_FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.py)`")
_DOTTED = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.(?!py`)\w+)+)`")


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring and comment."""
    source = (ROOT / path).read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _names(path: Path) -> set[str]:
    """The module-level names of a file."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@cache
def _is_there(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or something in a module (of a class, the class alone)."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        folder = Path(*parts[:count])
        if (ROOT / folder).is_dir():
            return count == len(parts)
        if (ROOT / folder.with_suffix(".py")).is_file():
            return count == len(parts) or parts[count] in _names(folder.with_suffix(".py"))
    return False


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_that_a_docstring_or_comment_names_exists(folder: str) -> None:
    """A file is named by the end of its path: `stage.py`, `dedupe/stage.py` or `dataprep/dedupe/stage.py`."""
    ends = {"/".join(path.parts[begin:]) for path in FILES for begin in range(len(path.parts))}
    missing = [
        f"{path}:{line} {name}"
        for path in FILES
        if path.parts[0] == folder
        for line, text in _prose(path)
        for name in _FILE.findall(text)
        if name not in ends
    ]
    assert missing == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_of_ours_that_a_docstring_or_comment_names_exists(folder: str) -> None:
    missing = [
        f"{path}:{line} {name}"
        for path in FILES
        if path.parts[0] == folder
        for line, text in _prose(path)
        for name in _DOTTED.findall(text)
        if not _is_there(name)
    ]
    assert missing == []


def test_code_in_strings_imports_modules_that_exist() -> None:
    """Programs that tests and child processes run are strings, which neither linter nor type checker reads."""
    imports = re.compile(rf"^\s*(?:from|import) ((?:{'|'.join(PACKAGES)})(?:\.\w+)*)", re.MULTILINE)
    strings = [
        (path, node.lineno, node.value)
        for path in FILES
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = [(path, line, name) for path, line, text in strings for name in imports.findall(text)]
    assert len(found) >= 10
    assert [f"{path}:{line} {name}" for path, line, name in found if not _is_there(name)] == []
