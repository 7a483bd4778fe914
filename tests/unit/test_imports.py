"""The plan of the house, held against the imports: who may know whom, by path.

`contracts` is a leaf; the three rooms do not know one another; within a room imports go down its floors and never up;
a stage's folder knows no other stage's folder; and Ray is known to the shells alone.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("dataprep", "training", "serving")
ALLOWED = {
    "cluster/contracts": {"cluster.contracts"},
    **{room: {room, "cluster.contracts"} for room in ROOMS},
}

# The folders and modules of each room, floor by floor from the ground up. A module imports from its own folder and from
# floors below. Two names on one floor do not know each other, so a stage can't lean on another stage.
FLOORS = {
    "dataprep": [
        {
            "config",
            "kernel_cache",
            "killable_process",
        },
        {
            "text",
            "sampling",
            "documents",
            "ray_tasks",
        },
        {
            "sources",
            "pii",
            "signatures",
        },
        {
            "extract",
            "filters",
        },
        {
            "clean",
            "quality_classifier",
            "repeated_lines",
            "dedupe",
            "tokenizer",
            "mixture",
        },
        {
            "tokenize",
        },  # which encodes by `tokenizer.encoders`
        {
            "compile_kernels",
        },
    ],
    "training": [
        {
            "finite_weights",
        },
        {
            "config",
            "schedules",
            "export",
            "models",
            "launch",
            "metrics",
            "checkpoint",
            "data",
        },
        {
            "token_losses",
            "engine",
            "conversations",
            "base_model",
        },
        {
            "tokenizers",
            "feedback",
        },
        {
            "inference",
            "candidates",
        },
        {
            "pretrain",
            "preferences",
            "post_training",
            "online",
            "evaluate",
        },
    ],
    "serving": [
        {
            "config",
            "remote_errors",
            "terminal_chat",
        },
        {
            "models",
            "engine",
            "weight_updates",
        },
        {
            "openai_api",
            "policy",
            "reward",
            "answers",
        },
        {
            "deploy",
        },
        {
            "http_gateway",
            "rollout_client",
        },
    ],
    "cluster": [
        {
            "contracts",
        },
        {
            "stage_kinds",
            "setting_texts",
            "fingerprint",
            "conversation_cleaning",
            "run_record",
            "terminal",
            "progress",
            "interrupts",
            "model_card",
        },
        {
            "spec",
            "inspect",
            "verify",
            "ppo_stage",
            "answer_client",
            "conversations_stage",
        },
        {
            "plan",
            "ray_session",
            "report",
            "inspect_conversations",
            "explain",
            "schema",
            "candidates_stage",
            "evaluate_stage",
        },
        {
            "run_forecast",
            "start_ahead",
            "reference_pages",
            "starting_models",
            "card_lineage",
        },
        {
            "runner",
            "serve",
            "submit",
        },
        {
            "run_without_ray",
            "harness",
        },
        {
            "cli",
        },
        {
            "__main__",
        },
    ],
}
STAGES = {
    "dataprep": {
        "clean",
        "quality_classifier",
        "repeated_lines",
        "dedupe",
        "tokenizer",
        "tokenize",
        "mixture",
    },
    "training": {
        "conversations",
        "candidates",
        "pretrain",
        "preferences",
        "post_training",
        "online",
        "evaluate",
    },
}
# What a stage's folder shares with other stages, by name.
SHARED = {
    "dataprep.tokenizer.encoders",
    "training.candidates.artifact",
    "training.conversations.artifact",
    "training.conversations.prompt_answers",
    "training.conversations.messages",
    "training.conversations.prompts",
    "training.conversations.reading",
    "training.conversations.encoding",
}

# The files that know Ray: the shells around algorithms that run where there is no Ray.
RAY_FILES = {
    "dataprep/ray_tasks.py",
    "dataprep/quality_classifier/stage.py",
    "dataprep/tokenizer/stage.py",
    "training/launch/standing_group.py",
    "training/launch/workers.py",
    "training/metrics/trackers.py",
    "serving/deploy.py",
    "serving/http_gateway.py",
    "serving/policy.py",
    "serving/rollout_client.py",
    "serving/weight_updates/store.py",
}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(path): path for room in (*ROOMS, "cluster", "benchmarks") for path in (ROOT / room).rglob("*.py")}


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Every module that a file names in an import, wherever in the file it stands."""
    return tuple(_imported(ast.parse(path.read_text()), _name(path)))


def _imported(tree: ast.Module, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield longer if longer in MODULES or node.module == "cluster" else str(node.module)


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


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_down_the_floors_of_a_room(room: str) -> None:
    floor_of = {name: floor for floor, names in enumerate(FLOORS[room]) for name in names}
    inside = {part for module in MODULES if module.startswith(f"{room}.") for part in module.split(".")[1:2]}
    assert set(floor_of) == inside, "every folder and module of the room stands on one floor"
    wrong = []
    for module, path in MODULES.items():
        if not module.startswith(f"{room}."):
            continue
        place = module.split(".")[1]
        for other in _imports(path):
            if not other.startswith(f"{room}.") or (there := other.split(".")[1]) == place:
                continue
            if floor_of[there] >= floor_of[place]:
                wrong.append(f"{module} (floor {floor_of[place]}) imports {other} (floor {floor_of[there]})")
    assert wrong == []


@pytest.mark.parametrize("room", STAGES)
def test_a_stage_imports_no_other_stage_but_what_is_named_shared(room: str) -> None:
    assert all((ROOT / room / stage).is_dir() for stage in STAGES[room])
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for stage in STAGES[room]
        for path in (ROOT / room / stage).rglob("*.py")
        for module in _imports(path)
        if _is_within(module, {f"{room}.{other}" for other in STAGES[room] - {stage}}) and module not in SHARED
    ]
    assert wrong == []


@pytest.mark.parametrize("room", STAGES)
def test_a_stage_is_a_folder_with_settings_code_and_a_record(room: str) -> None:
    for stage in STAGES[room]:
        files = {path.name for path in (ROOT / room / stage).glob("*.py")}
        assert {"__init__.py", "config.py", "kind.py"} <= files, stage


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {module: {m for m in _imports(path) if m in MODULES and m != module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", ["dataprep", "training", "serving", "cluster"])
def test_every_package_says_what_it_is_and_where_to_begin(package: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert docstring is not None
    assert "Begin with" in docstring


def test_every_folder_says_what_it_is() -> None:
    without = [
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert without == []


def test_planning_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys, cluster.cli, cluster.plan, cluster.stage_kinds\n"
        "heavy = {'ray', 'torch', 'transformers', 'deepspeed', 'numba'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ray_is_imported_by_the_shells_alone() -> None:
    known = {
        str(path.relative_to(ROOT))
        for module, path in MODULES.items()
        if module.split(".")[0] in ROOMS and any(m.split(".")[0] == "ray" for m in _imports(path))
    }
    assert known == RAY_FILES
