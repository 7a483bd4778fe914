"""What each setting is, read off the models' own schema: for `raymill explain` and the pages in docs/stages.

A setting's meaning is the docstring under its field. Its type is told as a person who writes YAML says it
("integer >= 1", "one of: adam, sgd"), from the field's JSON Schema.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined

from cluster.contracts.config import InputFiles, InputOf, ReferenceFiles, StageConfig

_MODEL_STAGES = {"policy": "any that makes a causal model", "reward": "any that makes a reward model"}
_UNLIMITED = 2**31 - 1  # bounds from here on are what the code can compute with, nothing to choose by


@dataclass(frozen=True)
class Setting:
    """One setting of a stage, or of the head of a spec."""

    path: str
    """Its name; that of a nested one is dotted ("workers.num_workers")."""
    type: str
    """What it takes, in words, without bounds that nobody comes near."""
    full_type: str
    """The same with all bounds."""
    default: str | None
    """The default as YAML; None: the setting is required."""
    meaning: str
    """The docstring under its field, on one line."""
    changes_results: bool
    """Whether another value makes another artifact; else the setting is left out of the fingerprint."""
    is_group: bool
    """Whether it holds settings of its own, which stand behind it in the list."""
    example: str
    """A value as YAML: the default, or one that fits where that is null or missing."""


class SchemaWithoutTitles(GenerateJsonSchema):
    """Pydantic's JSON Schema, without a title for each field that only repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def sections_of(config: type[BaseModel]) -> list[tuple[str, list[Setting]]]:
    """(title, settings) of each section; one section without a title for a model that has none."""
    found = list(settings_of(config))
    sections: Mapping[str, tuple[str, ...]] = getattr(config, "sections", {})
    if not sections:
        return [("", found)]
    return [
        (title, [setting for name in names for setting in found if _first(setting.path) == name])
        for title, names in sections.items()
    ]


def settings_of(model: type[BaseModel]) -> Iterator[Setting]:
    """Every setting of a model but `kind`; those of nested models behind the one that holds them."""
    yield from _walk(model, "", changes_results=True)


def _walk(model: type[BaseModel], prefix: str, *, changes_results: bool) -> Iterator[Setting]:
    schema = model.model_json_schema(schema_generator=SchemaWithoutTitles)
    for name, info in model.model_fields.items():
        if name == "kind" and issubclass(model, StageConfig):
            continue
        extra = info.json_schema_extra
        changes = changes_results and not (isinstance(extra, dict) and extra.get("not_in_fingerprint"))
        nested = nested_model(info.annotation)
        fragment = schema["properties"][name]
        yield Setting(
            path=prefix + name,
            type=_type_text(info, fragment, full=False),
            full_type=_type_text(info, fragment, full=True),
            default=_default(info),
            meaning=" ".join((info.description or "").split()),
            changes_results=changes,
            is_group=nested is not None,
            example=_example(info, fragment),
        )
        if nested is None:
            continue
        if typing.get_origin(info.annotation) is dict:
            # A profile holds the stage's own filter settings again: they are explained once, with the stage.
            below = f"{prefix}{name}.NAME."
            repeated = tuple(
                below + known
                for known, field in nested.model_fields.items()
                if known in model.model_fields and model.model_fields[known].annotation == field.annotation
            )
            for setting in _walk(nested, below, changes_results=changes):
                if not setting.path.startswith(repeated):
                    yield setting
        else:
            yield from _walk(nested, f"{prefix}{name}.", changes_results=changes)


def nested_model(annotation: object) -> type[BaseModel] | None:
    """The model whose settings an annotation holds: itself, an optional one, or the values of a mapping."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def as_yaml(value: Any) -> str:
    """A value as one line of YAML."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, tuple):
        value = list(value)
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
        .removesuffix("...\n")
        .strip()
    )


def _first(path: str) -> str:
    return path.partition(".")[0]


def _default(info: FieldInfo) -> str | None:
    if info.default is not PydanticUndefined:
        value = info.default
    elif info.default_factory is not None:
        value = info.default_factory()  # type: ignore[call-arg]
    else:
        return None
    return "the defaults below" if isinstance(value, BaseModel) else as_yaml(value)


def _type_text(info: FieldInfo, fragment: Mapping[str, Any], *, full: bool) -> str:
    optional = " or null" if {"type": "null"} in fragment.get("anyOf", ()) else ""
    mark = next((mark for mark in info.metadata if isinstance(mark, InputOf)), None)
    if mark is not None:
        kinds = ", ".join((*mark.kinds, *([_MODEL_STAGES[mark.model]] if mark.model else [])))
        if _is_of_type(fragment, "array"):
            return f"list of stages ({kinds}) or directories{optional}"
        names = "mapping of name to " if _is_of_type(fragment, "object") else ""
        return f"{names}stage ({kinds}) or directory{optional}"
    if any(isinstance(mark, InputFiles | ReferenceFiles) for mark in info.metadata):
        return f"list of paths{optional}"
    key = "integer" if typing.get_origin(info.annotation) is dict and typing.get_args(info.annotation)[0] is int else ""
    return _schema_text(fragment, full=full, key=key)


def _is_of_type(fragment: Mapping[str, Any], name: str) -> bool:
    """Whether a JSON Schema takes "array" or "object", perhaps beside null."""
    return any(part.get("type") == name for part in (fragment, *fragment.get("anyOf", ())))


def _schema_text(fragment: Mapping[str, Any], *, full: bool, key: str = "") -> str:
    """A JSON Schema in words."""
    if "$ref" in fragment:
        return "group of settings"
    if "const" in fragment:
        return f"only {as_yaml(fragment['const'])}"
    if "enum" in fragment:
        return f"one of: {', '.join(as_yaml(value) for value in fragment['enum'])}"
    if "anyOf" in fragment:
        texts = [_schema_text(part, full=full, key=key).removeprefix("only ") for part in fragment["anyOf"]]
        before = ", ".join(texts[:-1])
        return f"{before}{',' if ', ' in before or ' and ' in before else ''} or {texts[-1]}"
    kind = fragment.get("type")
    if kind in ("integer", "number"):
        return kind + _bounds(fragment, full=full)
    if kind == "array":
        if "prefixItems" in fragment:
            first = _schema_text(fragment["prefixItems"][0], full=full)
            return f"list of {len(fragment['prefixItems'])} values, each a {first}"
        item = _schema_text(fragment["items"], full=full)
        return f"list of {'any' + item.removeprefix('one') if item.startswith('one of') else item}"
    if kind == "object":
        values = fragment.get("additionalProperties") or next(
            iter(fragment.get("patternProperties", {}).values()), None
        )
        if not isinstance(values, Mapping):
            return "mapping"
        text = f"mapping of {key or 'name'} to {_schema_text(values, full=full)}"
        names = fragment.get("propertyNames", {}).get("enum")
        return f"{text}; names: {', '.join(names)}" if names else text
    return {"boolean": "true or false", "string": "text", "null": "null"}.get(str(kind), "anything")


def _bounds(fragment: Mapping[str, Any], *, full: bool) -> str:
    least, above = fragment.get("minimum"), fragment.get("exclusiveMinimum")
    most, below = fragment.get("maximum"), fragment.get("exclusiveMaximum")
    if not full:
        most = most if most is not None and most < _UNLIMITED else None
        below = below if below is not None and below < _UNLIMITED else None
    if least is not None and most is not None:
        return f" from {_number(least)} to {_number(most)}"
    lower = f" >= {_number(least)}" if least is not None else f" > {_number(above)}" if above is not None else ""
    upper = f" <= {_number(most)}" if most is not None else f" < {_number(below)}" if below is not None else ""
    return f"{lower} and{upper}" if lower and upper else lower or upper


def _number(value: float) -> str:
    """0.0003, 1e-6, 10: as people write them."""
    text = repr(value).removesuffix(".0")
    return text.replace("e-0", "e-")


def _example(info: FieldInfo, fragment: Mapping[str, Any]) -> str:
    default = _default(info)
    if nested_model(info.annotation) is not None:
        return "{}"
    if default not in (None, "null", "[]", "{}"):
        return str(default)
    for mark in info.metadata:
        if isinstance(mark, InputOf):
            first = mark.kinds[0] if mark.kinds else {"policy": "sft", "reward": "reward_model"}[str(mark.model)]
            if _is_of_type(fragment, "object"):
                return f"{{{first}: {first}}}"
            return f"[{first}]" if _is_of_type(fragment, "array") else first
        if isinstance(mark, InputFiles | ReferenceFiles):
            return "[data/*.jsonl]" if isinstance(mark, InputFiles) else "[data/list.txt]"
    return _fitting(next((part for part in fragment.get("anyOf", ()) if part.get("type") != "null"), fragment))


def _fitting(fragment: Mapping[str, Any]) -> str:
    """A value that a JSON Schema takes."""
    if "enum" in fragment:
        return as_yaml(fragment["enum"][0])
    kind = fragment.get("type")
    if kind in ("integer", "number"):
        least, above = fragment.get("minimum"), fragment.get("exclusiveMinimum")
        if least is not None:
            return as_yaml(max(least, min(1, fragment.get("maximum", 1))))
        most = fragment.get("maximum", fragment.get("exclusiveMaximum", 2))
        return as_yaml(1 if above is None or above < 1 < most else (above + most) / 2)
    if kind == "array":
        return f"[{_fitting(fragment.get('items', {}))}]"
    return {"boolean": "true", "object": "{}"}.get(str(kind), "NAME")
