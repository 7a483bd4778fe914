"""A stage kind's settings as a table: name, type, default, meaning; read off the schema itself."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.markup import escape
from rich.table import Table

from cluster.contracts.config import InputOf, StageConfig


def settings_table(config: type[StageConfig]) -> Table:
    """Every setting of a stage, nested ones dotted."""
    table = Table("setting", "type", "default", "meaning", box=None, pad_edge=False)
    for path, info, meaning in _walk(config, ""):
        if path != "kind":
            table.add_row(path, escape(_annotation_name(info.annotation)), escape(_default(info)), escape(meaning))
    return table


def _walk(model: type[BaseModel], prefix: str) -> list[tuple[str, FieldInfo, str]]:
    rows: list[tuple[str, FieldInfo, str]] = []
    comments = field_comments(model)
    for name, info in model.model_fields.items():
        rows.append((prefix + name, info, _meaning(info) or comments.get(name, "")))
        nested = _nested_model(info.annotation)
        if nested is not None and typing.get_origin(info.annotation) is dict:
            below = f"{prefix}{name}.NAME."
            explained = tuple(
                below + known
                for known, field in nested.model_fields.items()
                if known in model.model_fields and model.model_fields[known].annotation == field.annotation
            )
            rows += [row for row in _walk(nested, below) if not row[0].startswith(explained)]
        elif nested is not None:
            rows += _walk(nested, f"{prefix}{name}.")
    return rows


def field_comments(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment behind its line, the string below it or the comment above it: what the setting means."""
    comments: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls is BaseModel or not issubclass(cls, BaseModel):
            continue
        source = textwrap.dedent(inspect.getsource(cls))
        lines = source.splitlines()
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for node, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                behind = lines[node.end_lineno - 1][node.end_col_offset :].strip()  # type: ignore[operator]
                if behind.startswith("# "):
                    comments[node.target.id] = behind[2:]
                elif isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    comments[node.target.id] = " ".join(str(below.value.value).split())
                elif above := _comment_above(lines, node.lineno - 1):
                    comments[node.target.id] = above
    return comments


def _comment_above(lines: list[str], index: int) -> str:
    """The comment lines that end right above line `index`."""
    first = index
    while first and lines[first - 1].strip().startswith("#"):
        first -= 1
    return " ".join(line.strip().removeprefix("#").strip() for line in lines[first:index])


def _nested_model(annotation: object) -> type[BaseModel] | None:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _annotation_name(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_annotation_name(a) for a in arguments)
    if origin is typing.Literal:
        return " | ".join(repr(a) for a in arguments)
    if origin is typing.Annotated:
        return _annotation_name(arguments[0])
    if annotation is type(None):
        return "null"
    if origin is not None:
        inner = ", ".join(_annotation_name(a) for a in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return getattr(annotation, "__name__", str(annotation))


def _default(info: FieldInfo) -> str:
    if info.default is not PydanticUndefined:
        return "(below)" if isinstance(info.default, BaseModel) else repr(info.default)
    if info.default_factory is not None:
        made = info.default_factory()  # type: ignore[call-arg]
        return "(below)" if isinstance(made, BaseModel) else repr(made)
    return "required"


def _meaning(info: FieldInfo) -> str:
    marks = [m for m in info.metadata if isinstance(m, InputOf)]
    if marks and not info.description:
        return f"a {' or '.join(marks[0].kinds)} stage, or a directory"
    return info.description or ""
