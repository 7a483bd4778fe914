"""A spec that was sent to a cluster holds every setting, also those that are null."""

import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cluster.spec import SpecHead
from cluster.stage_kinds import STAGE_KINDS


def _models(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if model in seen:
        return
    seen.add(model)
    yield model
    for info in model.model_fields.values():
        annotations: list[object] = [info.annotation]
        while annotations:
            annotation = annotations.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from _models(annotation, seen)
            annotations += typing.get_args(annotation)


def _nullable() -> Iterator[tuple[type[BaseModel], str]]:
    seen: set[type[BaseModel]] = set()
    for root in (SpecHead, *(kind.config for kind in STAGE_KINDS.values())):
        for model in _models(root, seen):
            for name, info in model.model_fields.items():
                if info.default is None and not info.is_required():
                    yield model, name


@pytest.mark.parametrize(("model", "name"), [pytest.param(m, n, id=f"{m.__name__}.{n}") for m, n in _nullable()])
def test_null_may_be_written_where_it_is_the_default(model: type[BaseModel], name: str) -> None:
    # Settings that are missing may be told, and no other kind of error may be raised.
    assert (name,) not in [detail["loc"] for detail in _problems(model, {name: None})]


def _problems(model: type[BaseModel], values: dict[str, None]) -> list[Any]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return list(error.errors())
    return []
