"""What the repository says about itself is true: its specs load, its README's commands exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from cluster.cli import DEFAULT_STORAGE, app
from cluster.spec import load_spec
from cluster.stage_kinds import STAGE_KINDS

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(p for p in (ROOT / "job_specs").rglob("*") if p.suffix in (".yaml", ".yml"))
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_spec_loads_through_the_real_schema(path: Path) -> None:
    assert load_spec(path).stages


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_shipped_spec_writes_to_the_storage_that_the_commands_look_in(path: Path) -> None:
    assert load_spec(path).head.storage == str(ROOT / DEFAULT_STORAGE)
    assert f"/{DEFAULT_STORAGE}/" in (ROOT / ".gitignore").read_text().splitlines()


# What the shipped sample has no use for: no set of good pages comes with it, and its pages are few.
OPTIONAL_KINDS = {"quality_classifier", "repeated_lines"}


def test_the_quickstart_uses_every_kind_of_stage() -> None:
    used = {config.kind for config in load_spec(ROOT / "job_specs" / "quickstart.yaml").stages.values()}
    assert used == set(STAGE_KINDS) - OPTIONAL_KINDS


def _code_lines() -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]


def test_every_raymill_command_in_the_readme_exists_with_its_options() -> None:
    import typer

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = [shlex.split(line) for line in _code_lines() if line.startswith("raymill ")]
    assert len(found) >= 8
    for _, name, *arguments in found:
        assert name in commands, name
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {a for a in arguments if a.startswith("--")} <= options, (name, arguments)
        for argument in arguments:
            if argument.startswith("job_specs/"):
                assert (ROOT / argument).exists()


def test_every_make_verb_in_the_readme_exists() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", README, flags=re.MULTILINE))
    assert {"quickstart", "test"} <= named <= verbs
    listed = re.search(r"`make ((?:[a-z]+ \| )+[a-z]+)`", README)
    assert listed
    assert set(listed[1].split(" | ")) <= verbs


def test_every_folder_in_the_map_exists() -> None:
    block = README.split("## The map")[1].split("```")[1]
    for path in re.findall(r"^([a-z_]+/)", block, flags=re.MULTILINE):
        assert (ROOT / path).exists(), path
    assert "decisions/" in block
    assert (ROOT / "docs" / "decisions" / "README.md").exists()


def test_nothing_of_the_readme_is_left_to_fill_in() -> None:
    assert "@@" not in README


def _is_kernel(function: ast.FunctionDef) -> bool:
    """Whether a decorator compiles the function: `@numba.njit(...)` or the like, `@intrinsic`."""
    names = [ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in function.decorator_list]
    return any(name.startswith("numba.") or name == "intrinsic" for name in names)


def test_every_function_but_compiled_ones_says_its_types() -> None:
    """mypy lets modules with kernels have untyped functions, since it can't tell kernels from others."""
    paths = [*(ROOT / "dataprep").rglob("*.py"), ROOT / "training" / "data" / "packing.py"]
    functions = [
        (path, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and not _is_kernel(node)
    ]
    assert len(functions) > 100
    untyped = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}" for path, node in functions if node.returns is None
    ]
    assert untyped == []
