"""The JSON Schema (draft 2020-12) of a whole job spec, for editors: completion, meanings, and checks while typing.

It says of a spec what can be said without looking at files or other stages: names, types, bounds, choices. What the
stages have to do with one another is checked by `raymill plan`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cluster.contracts.stage_kind import StageKind
from cluster.setting_texts import SchemaWithoutTitles
from cluster.spec import NAME_PATTERN, SpecHead
from cluster.stage_kinds import STAGE_KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN_PACKAGES = ("cluster", "dataprep", "serving", "training")
_UNCHANGED = "Does not change results."


def own_kinds() -> list[StageKind]:
    """The kinds that Raymill itself declares: other installed packages may add some, which no committed file holds."""
    return [kind for kind in STAGE_KINDS.values() if kind.config.__module__.partition(".")[0] in OWN_PACKAGES]


def spec_schema(kinds: Iterable[StageKind]) -> dict[str, Any]:
    """The schema of a spec whose stages are of these kinds."""
    by_name = {kind.name: kind for kind in kinds}
    models: list[type[BaseModel]] = [SpecHead, *(kind.config for kind in by_name.values())]
    references, together = models_json_schema(
        [(model, "validation") for model in models], schema_generator=SchemaWithoutTitles
    )
    definitions = together["$defs"]
    for definition in definitions.values():
        definition.pop("title", None)
        for setting in definition.get("properties", {}).values():
            _tidy(setting)
    names = {name: references[kind.config, "validation"]["$ref"].rpartition("/")[2] for name, kind in by_name.items()}
    for name, kind in by_name.items():
        definitions[names[name]]["properties"]["kind"] = {"const": name, "description": f"This stage: {kind.summary}."}
    head = definitions.pop(references[SpecHead, "validation"]["$ref"].rpartition("/")[2])
    definitions["stage"] = _stage_by_kind(names, by_name)
    return {
        "$schema": DIALECT,
        "title": "Raymill job spec",
        "description": "Raw data in, a served and aligned language model out: where artifacts go, and the stages.",
        "type": "object",
        "properties": {**head["properties"], "stages": _stages(names)},
        "required": [*head["required"], "stages"],
        "additionalProperties": False,
        "$defs": dict(sorted(definitions.items())),
    }


def _tidy(setting: dict[str, Any]) -> None:
    """A meaning on one line, with whether the setting changes results; no keyword of our own."""
    description = " ".join(setting.get("description", "").split())
    if setting.pop("not_in_fingerprint", False):
        description = f"{description} {_UNCHANGED}"
    if description:
        setting["description"] = description


def _stages(names: Mapping[str, str]) -> dict[str, Any]:
    """A stage is of the kind that it says, or of its name's."""
    return {
        "description": "The stages: name to settings. `kind` may be left out where the name is the kind's.",
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": NAME_PATTERN},
        "properties": {
            name: {
                "if": {"type": "object", "required": ["kind"]},
                "then": {"$ref": "#/$defs/stage"},
                "else": {"$ref": f"#/$defs/{definition}"},
            }
            for name, definition in names.items()
        },
        "additionalProperties": {"$ref": "#/$defs/stage"},
    }


def _stage_by_kind(names: Mapping[str, str], kinds: Mapping[str, StageKind]) -> dict[str, Any]:
    """A stage with a `kind`: that kind's settings."""
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {
            "kind": {"enum": list(names), "description": "What kind of stage this is: `raymill explain` lists them."}
        },
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{definition}"},
            }
            for name, definition in names.items()
        ],
    }


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as the file that is written."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
