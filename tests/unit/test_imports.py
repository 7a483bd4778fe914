"""The import rule of the house: contracts is a leaf, the three rooms do not know one another."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("dataprep", "training", "serving")
ALLOWED = {
    "cluster/contracts": {"cluster.contracts"},
    **{room: {room, "cluster.contracts"} for room in ROOMS},
}


def _imports(path: Path) -> Iterator[str]:
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                yield ".".join([*base, *([node.module] if node.module else [])])
            elif node.module == "cluster":
                yield from (f"cluster.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module


def _is_within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_itself_and_the_contracts(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in _imports(path)
        if module.split(".")[0] in {*ROOMS, "cluster"} and not _is_within(module, ALLOWED[room])
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["dataprep", "training", "serving", "cluster"])
def test_every_package_says_what_it_is_and_where_to_begin(package: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert docstring is not None
    assert "Begin with" in docstring


def test_planning_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys, cluster.cli, cluster.plan, cluster.stage_kinds\n"
        "[kind.config for kind in cluster.stage_kinds.STAGE_KINDS.values()]\n"
        "heavy = {'ray', 'torch', 'transformers', 'deepspeed', 'numba'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Modules that hold an algorithm and nothing else: readable, and runnable where there is no Ray.
SHELLS = {
    "dataprep": {"run_shard_tasks", "clean", "quality_classifier", "shuffle", "tokenize", "tokenizer"},
    "training": {"workers", "evaluate", "trackers"},
    "serving": {"deploy", "policy", "reward", "weights", "rollouts", "http", "app"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_ray_is_imported_by_the_shells_alone(room: str) -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / room).rglob("*.py")
        if path.stem not in SHELLS[room] and any(m.split(".")[0] == "ray" for m in _imports(path))
    ]
    assert wrong == []
