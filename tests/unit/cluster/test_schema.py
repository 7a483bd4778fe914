"""The JSON Schema of a spec takes what the parser takes, and the generated files are what the settings say now."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from cluster.reference_pages import PAGES, ROOT, SCHEMA, reference_files
from cluster.schema import own_kinds, spec_schema
from cluster.spec import load_spec
from cluster.stage_kinds import STAGE_KINDS
from tests.stub_models import spec_at_hand

SPECS = sorted((ROOT / "job_specs").rglob("*.yaml"))
VALIDATOR = Draft202012Validator(spec_schema(own_kinds()))


def as_json(value: Any) -> Any:
    """The value as an editor sees it: every key is text."""
    return json.loads(json.dumps(value))


@pytest.fixture
def quickstart() -> dict[str, Any]:
    # Written out by the parser, which reads 3e-4 as a number as YAML 1.2 does; PyYAML takes it for text.
    loaded: dict[str, Any] = as_json(load_spec(ROOT / "job_specs/quickstart.yaml").as_dict())
    return loaded


def test_the_schema_itself_is_valid() -> None:
    Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_shipped_spec_is_valid_by_the_schema_with_all_its_defaults(path: Path, tmp_path: Path) -> None:
    VALIDATOR.validate(as_json(load_spec(spec_at_hand(path, tmp_path)).as_dict()))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_shipped_spec_is_valid_by_the_schema_as_it_is_written(path: Path) -> None:
    from cluster.spec import _StrictLoader

    VALIDATOR.validate(as_json(yaml.load(path.read_text(), Loader=_StrictLoader)))


@pytest.mark.parametrize("name", STAGE_KINDS)
def test_every_worked_example_is_valid_by_the_schema(name: str) -> None:
    from cluster.spec import _StrictLoader

    stages = yaml.load(STAGE_KINDS[name].example, Loader=_StrictLoader)["stages"]
    VALIDATOR.validate(as_json({"name": "example", "storage": "runs", "stages": stages}))


def set_at(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        inner = spec
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


def without_kind(spec: dict[str, Any]) -> None:
    renamed = spec["stages"].pop("dedupe")
    del renamed["kind"]
    spec["stages"]["duplicates"] = renamed


@pytest.mark.parametrize(
    "change",
    [
        set_at("storag", value="x"),
        set_at("stages", "pretrain", "learning_rate", value=1e-3),
        set_at("stages", "clean", "c4", "min_words", value=3),
        set_at("stages", "pretrain", "lr", value="fast"),
        set_at("stages", "pretrain", "lr", value=0),
        set_at("stages", "pretrain", "schedule", value="cosin"),
        set_at("stages", "pretrain", "workers", "num_workers", value=0),
        set_at("stages", "clean", "languages", value="en"),
        set_at("stages", "pretrain", "kind", value="pretraining"),
        set_at("stages", "pretrain", "kind", value="sft"),
        set_at("stages", value={}),
        set_at("resources", "cpu", value=2),
        without_kind,
        lambda spec: spec.pop("storage"),
        lambda spec: spec["stages"]["dedupe"].pop("parts"),
    ],
    ids=[
        "misspelt top key", "misspelt setting", "misspelt nested setting", "text for a number", "out of bounds",
        "no such choice", "nested out of bounds", "text for a list", "no such kind", "settings of another kind",
        "no stages", "misspelt resource", "a name that is no kind", "no storage", "a required input missing",
    ],
)  # fmt: skip
def test_a_wrong_spec_is_not_valid(quickstart: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> None:
    wrong = copy.deepcopy(quickstart)
    change(wrong)
    assert VALIDATOR.is_valid(quickstart)
    assert not VALIDATOR.is_valid(wrong)


def test_kind_may_be_left_out_where_the_name_is_the_kinds_and_any_name_may_have_a_kind(
    quickstart: dict[str, Any],
) -> None:
    del quickstart["stages"]["dedupe"]["kind"]
    VALIDATOR.validate(quickstart)
    quickstart["stages"]["sft"] = {**quickstart["stages"]["dedupe"], "kind": "dedupe"}
    quickstart["stages"]["fine-tuned"] = {"kind": "sft", "model": "pretrain", "conversations": "conversations"}
    VALIDATOR.validate(quickstart)


def test_every_setting_in_the_schema_has_its_meaning() -> None:
    silent = [
        f"{name}.{setting}"
        for name, definition in VALIDATOR.schema["$defs"].items()
        for setting, schema in definition.get("properties", {}).items()
        if not schema.get("description")
    ]
    assert silent == []


@pytest.mark.parametrize("path", reference_files())
def test_generated_files_are_as_the_settings_say(path: str) -> None:
    assert (ROOT / path).read_text() == reference_files()[path], "stale: run `make docs`"


def test_there_is_no_page_of_a_kind_that_is_gone() -> None:
    assert {f"{PAGES}/{page.name}" for page in (ROOT / PAGES).iterdir()} == set(reference_files()) - {SCHEMA}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_shipped_spec_names_the_schema_beside_it(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
