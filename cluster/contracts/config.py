"""The base of every stage's config, and the marks that the runner reads off its fields.

Three kinds of fields: plain ones change results and enter the fingerprint; those made with `not_in_fingerprint(...)`
(resources, micro-batches, logging) do not; those typed `StageInput` name another stage, or an artifact or
model directory by its URI, and make the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.contracts.model_needs import ModelNeeds

Sections = Mapping[str, tuple[str, ...]]
"""The settings of a stage as people read them: title of a section -> its settings."""


class StrictModel(BaseModel):
    """Settings: frozen, refusing unknown keys, and numbers that are nan or infinite.

    The docstring under a field is the setting's meaning. `raymill explain`, the JSON Schema and the pages in
    `docs/stages` all show it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class InputOf:
    """Marks a field as the name of a stage (or the URI of its artifact): one of `kinds`, or any that makes a `model`.

    `InputOf(model="policy")` takes every kind whose record says so, those of other packages too, so that any stage may
    start from the model that any other one made.
    """

    kinds: tuple[str, ...] = ()
    model: Literal["policy", "reward"] | None = None

    def takes(self, kind: str, model: str | None) -> bool:
        """Whether a stage of this kind, whose artifact is such a model (or none), may be named."""
        return kind in self.kinds or (self.model is not None and model == self.model)


@dataclass(frozen=True)
class InputFiles:
    """Marks a list of raw inputs, as `storage.expand` takes them, at any depth of a config.

    Size and mtime (or ETag) enter the fingerprint.
    """


@dataclass(frozen=True)
class ReferenceFiles:
    """Marks a list of files that belong to the settings (word lists, evaluation sets), at any depth of a config.

    Unlike raw inputs they bear on every part of a stage's output, so their content stands for them in the fingerprint
    of the settings, whatever they are called and wherever they lie.
    """


def not_in_fingerprint(**keywords: Any) -> Any:
    """A Pydantic field that is left out of the fingerprint."""
    return Field(**keywords, json_schema_extra={"not_in_fingerprint": True})


class Resources(StrictModel):
    """What one process of a role gets. `cpus` may be a fraction; threads follow it unless given."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that Ray reserves for one process, 1 by default. Fractions are allowed: two processes of 0.5 share a core.
    """

    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray reserves for one process. With 0, the default, it runs on CPUs."""

    threads: Annotated[int | None, Field(ge=1)] = None
    """Threads that one process computes with. `null`, the default, takes the whole part of `cpus`, and at least 1."""

    memory_gib: Annotated[float | None, Field(gt=0)] = None
    """Memory that Ray reserves for one process, in GiB. Ray then starts no more processes on a machine than fit; it
    does not stop a process that takes more. `null` reserves none.
    """

    @property
    def num_threads(self) -> int:
        """Threads each process runs."""
        return self.threads if self.threads is not None else max(1, int(self.cpus))


class WorkerGroup(Resources):
    """The workers of a training stage."""

    num_workers: Annotated[int, Field(ge=1)] = 1
    """Number of worker processes that train together, each with the resources named here."""

    max_failures: Annotated[int, Field(ge=0)] = 2
    """Restarts in a row that bring no newer checkpoint before the stage gives up. Restarts that make progress are not
    counted. 0 gives up at the first failure.
    """

    hang_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """Seconds without progress after which a worker counts as hung; it is named, with its place in the code, and the
    workers start again. Only pre-training is watched, from its first step on.
    """


class ConflictingSettings(ValueError):
    """Settings that are right one by one and contradict one another: (setting, what is wrong) of each."""

    def __init__(self, conflicts: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{setting}: {message}" for setting, message in conflicts))
        self.conflicts = tuple(conflicts)


class StageConfig(StrictModel):
    """What all stages have. Subclasses set `kind` as a `Literal`."""

    # Raised when the stage's code changes its results, so that old artifacts no longer match.
    stage_version: ClassVar[int] = 1
    # Whether the spec's seed changes the stage's results; where it does not, it stays out of the fingerprint.
    uses_seed: ClassVar[bool] = True
    # How `raymill explain` and the pages in docs/stages group the settings; empty: one section of all of them.
    sections: ClassVar[Sections] = {}

    kind: str
    """What kind of stage this is. It may be left out where the stage's name is the kind's."""

    @classmethod
    def input_fields(cls) -> Mapping[str, InputOf]:
        """Field name -> which kinds of artifact it takes."""
        return _marked(cls, InputOf)

    @classmethod
    def file_fields(cls) -> Mapping[str, InputFiles]:
        """The fields that hold raw input paths, without those of nested settings."""
        return _marked(cls, InputFiles)

    def raw_inputs(self) -> dict[str, list[str]]:
        """The paths, directories and globs of all raw inputs, by dotted path of the setting."""
        return {path: list(files) for path, files in _files_of(self, InputFiles, "")}

    @classmethod
    def fields_not_in_fingerprint(cls) -> frozenset[str]:
        """The fields that the fingerprint leaves out."""
        return frozenset(
            name
            for name, info in cls.model_fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("not_in_fingerprint")
        )

    def check_input(self, uri: str) -> None:
        """Raise `InputError` where a raw input's name shows that the stage can't read it. Called before it runs."""

    def reference_files(self) -> dict[str, tuple[str, ...]]:
        """The paths, directories and globs of all `ReferenceFiles`, by dotted path of the setting."""
        return dict(_files_of(self, ReferenceFiles, ""))

    def with_files(self, replaced: Mapping[str, Sequence[str]]) -> Self:
        """A copy in which the settings at these dotted paths name other files."""
        values = self.model_dump()
        for path, files in replaced.items():
            set_at(values, path, tuple(files))
        return type(self).model_validate(values)

    def model_needs(self, field: str) -> ModelNeeds:
        """What the model must have that the input `field` names; it is checked before any worker starts."""
        return ModelNeeds()

    def roles(self) -> list[tuple[str, int, Resources]]:
        """(role, number of processes, resources each) that run at the same time; checked against the cluster."""
        return []

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """(setting, what is wrong with it) for every setting that contradicts another one; all of them are shown."""
        yield from ()

    @model_validator(mode="after")
    def _without_conflicts(self) -> Self:
        if found := list(self.conflicts()):
            raise ConflictingSettings(found)
        return self


def _marked(cls: type[BaseModel], mark: type) -> dict[str, Any]:
    return {
        name: next(m for m in info.metadata if isinstance(m, mark))
        for name, info in cls.model_fields.items()
        if any(isinstance(m, mark) for m in info.metadata)
    }


def set_at(values: dict[str, Any], path: str, value: Any) -> None:
    """Set the entry at a dotted path of nested dictionaries."""
    *parents, last = path.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value


def _files_of(model: BaseModel, mark: type, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(dotted path, files) of the settings with a mark, also in nested models and in mappings of them."""
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if any(isinstance(found, mark) for found in info.metadata):
            yield prefix + name, tuple(value or ())
        children = value.items() if isinstance(value, dict) else [(None, value)]
        for key, child in children:
            if isinstance(child, BaseModel):
                yield from _files_of(child, mark, f"{prefix}{name}." if key is None else f"{prefix}{name}.{key}.")
