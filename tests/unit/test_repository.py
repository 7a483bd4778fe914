"""What the repository says about itself is true: specs load; commands, settings and paths on its pages exist."""

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli import DEFAULT_STORAGE, app
from cluster.cli import _load as load_with_settings
from cluster.spec import load_spec
from cluster.stage_kinds import STAGE_KINDS
from tests.stub_models import spec_at_hand, write_stub_model

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(p for p in (ROOT / "job_specs").rglob("*") if p.suffix in (".yaml", ".yml"))
README = (ROOT / "README.md").read_text()
# The decisions tell of earlier days, with the names of then.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "decisions" not in page.parts),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_spec_loads_through_the_real_schema(path: Path, tmp_path: Path) -> None:
    assert load_spec(spec_at_hand(path, tmp_path)).stages


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_shipped_spec_writes_to_the_storage_that_the_commands_look_in(path: Path, tmp_path: Path) -> None:
    spec = load_spec(spec_at_hand(path, tmp_path))
    assert spec.head.storage == str(spec.directory.parent / DEFAULT_STORAGE)
    assert f"/{DEFAULT_STORAGE}/" in (ROOT / ".gitignore").read_text().splitlines()


# What the shipped sample has no use for: no set of good pages comes with it, its pages are few, and so few parameters
# learn nothing from their own answers.
OPTIONAL_KINDS = {"candidates", "kto", "quality_classifier", "repeated_lines"}


def test_the_quickstart_uses_every_kind_of_stage() -> None:
    used = {config.kind for config in load_spec(ROOT / "job_specs" / "quickstart.yaml").stages.values()}
    assert used == set(STAGE_KINDS) - OPTIONAL_KINDS


def _raymill_lines(page: Path) -> list[list[str]]:
    """The words of every `raymill ...` line in the page's fenced blocks, comments apart."""
    blocks = [block.replace("\\\n", " ") for _, block in _BLOCK.findall(page.read_text())]
    lines = [re.split(r"\s#|\s\|\s|\s>\s", line)[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("raymill ")]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_raymill_command_on_a_page_exists_with_its_options(page: Path) -> None:
    import typer

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for _, name, *arguments in _raymill_lines(page):
        assert name in commands, name
        options = {option for p in commands[name].params for option in (*p.opts, *p.secondary_opts)}
        assert {a for a in arguments if a.startswith("--")} <= options, (name, arguments)
        for argument in arguments:
            if argument.startswith("job_specs/"):
                assert (ROOT / argument).exists()


def test_the_readme_shows_the_commands_that_people_need_every_day() -> None:
    shown = {words[1] for words in _raymill_lines(ROOT / "README.md")}
    assert shown >= {"plan", "run", "serve", "chat", "report", "explain"}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_setting_that_a_command_on_a_page_sets_loads(page: Path) -> None:
    for words in _raymill_lines(page):
        settings = [value for option, value in pairwise(words) if option == "--set"]
        spec = next((ROOT / word for word in words if word.startswith("job_specs/")), None)
        if spec is not None and settings:
            assert load_with_settings(spec, None, settings).stages, words


def _yaml_specs() -> Iterator[Any]:
    for page in PAGES:
        if "stages" in page.parts:
            continue  # each holds the settings of one stage, which the tests of the reference load by themselves
        for number, (language, block) in enumerate(_BLOCK.findall(page.read_text())):
            if language == "yaml" and "stages:" in block:
                yield pytest.param(block, id=f"{_name(page)}-{number}")


@pytest.mark.parametrize("snippet", _yaml_specs())
def test_every_spec_on_a_page_loads_through_the_real_schema(snippet: str, tmp_path: Path) -> None:
    """A snippet without a `name` shows what differs from the quickstart, and is laid over it."""
    given = yaml.safe_load(snippet)
    spec = given
    if "name" not in given:
        base = yaml.safe_load((ROOT / "job_specs" / "quickstart.yaml").read_text())
        spec = _laid_over(base, given)
    _make_files(spec["stages"], tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    assert set(load_spec(path).stages) >= set(given["stages"])


def _laid_over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in given.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def _make_files(value: Any, directory: Path) -> None:
    """An empty file, or a directory like a model, for every path below `directory` that a spec's settings name."""
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            _make_files(item, directory)
    elif isinstance(value, str) and re.fullmatch(r"[\w./*-]+", value):
        path = directory / value.replace("*", "0")
        if re.search(r"\.(jsonl|txt|warc|parquet|html|xml|csv)(\.gz|\.zst|\.bz2)?$", value):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif "/" in value:
            write_stub_model(path)


def test_the_index_of_the_documents_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=_name)
def test_every_file_in_the_table_of_what_to_open_exists(page: Path) -> None:
    table = re.split(r"^## To do X, open Y$", page.read_text(), flags=re.MULTILINE)[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| to ")]
    assert len(rows) >= 12
    for row in rows:
        for path in re.findall(r"`([\w./-]*/[\w./-]*)`", row.split(" | ", 1)[1]):
            assert (ROOT / path).exists(), path


def test_every_make_verb_in_the_readme_exists() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)(?=\s*#|$)", README, flags=re.MULTILINE))
    assert {"quickstart", "test"} <= named <= verbs
    listed = re.search(r"`make ((?:[a-z]+ \| )+[a-z]+)`", README)
    assert listed
    assert set(listed[1].split(" | ")) <= verbs


def test_every_folder_in_the_map_exists() -> None:
    block = README.split("## The map")[1].split("```")[1]
    folders = re.findall(r"^([a-z_]+/)", block, flags=re.MULTILINE)
    assert {"dataprep/", "training/", "serving/", "cluster/", "docs/"} <= set(folders)
    for path in folders:
        assert (ROOT / path).exists(), path


PACKAGES = [p for room in ("dataprep", "training", "serving", "cluster") for p in (ROOT / room).rglob("__init__.py")]


@pytest.mark.parametrize("package", PACKAGES, ids=_name)
def test_every_module_that_a_package_names_exists(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse(package.read_text())) or ""
    for name in re.findall(r"[\w/]+\.py\b|^ *(?:[a-z_]+/)+", docstring, flags=re.MULTILINE):
        assert (package.parent / name.strip()).exists() or (ROOT / name.strip()).exists(), name.strip()


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
