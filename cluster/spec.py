"""The job spec: YAML in, a checked graph of stages out, every problem at once.

A spec names its storage and its stages; a stage's settings name other stages as inputs, and that is the
graph. `load_spec` finds all that can be found without running anything: bad YAML, misspelt keys, wrong types,
unknown stages, inputs of the wrong kind, cycles, missing files. Relative paths are relative to the spec file.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from cluster.contracts import storage
from cluster.contracts.config import ConflictingSettings, StageConfig, StrictModel
from cluster.contracts.errors import InputError, Problem, SpecError, StorageError
from cluster.contracts.stage_kind import StageKind
from cluster.stage_kinds import BROKEN_KINDS, STAGE_KINDS
from training.base_model.adapter_layers import light_findings

_Model = TypeVar("_Model", bound=BaseModel)
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ClusterResources(StrictModel):
    """What a local run may take, and what it must find free. On a cluster, Ray's own totals count."""

    cpus: Annotated[float | None, Field(gt=0)] = None
    """CPUs of the local Ray. `null` takes all of the machine."""

    gpus: Annotated[int | None, Field(ge=0)] = None
    """GPUs of the local Ray. `null` takes all of the machine."""

    memory_gib: Annotated[float, Field(ge=0)] = 4.0
    """Free memory that must be there before a run starts, in GiB; with less, the run is refused. 0 checks nothing."""

    object_store_gib: Annotated[float, Field(gt=0)] = 0.5
    """Shared memory in which Ray passes data between processes, in GiB for the machine."""

    disk_gib: Annotated[float, Field(ge=0)] = 2.0
    """Free disk that must be there below `storage` before each stage starts, in GiB; with less, the stage is refused. 0
    checks nothing.
    """


class Environment(StrictModel):
    """What a submitted job's processes get beside the cluster's own image."""

    env_vars: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every process, name to value. They are stored with the job, so they are no place for
    secrets.
    """

    pip: list[str] = Field(default_factory=list)
    """Packages that Ray installs on the cluster's workers when the spec is submitted as a job, each as pip takes it. A
    run on this machine ignores them.
    """


class SpecHead(StrictModel):
    """All of a spec but its stages."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """The run's name: letters, digits, `.`, `_` and `-`. The run's record and report are written under it."""

    storage: Annotated[str, Field(min_length=1)]
    """Where artifacts and runs go: a directory, relative to the spec file, or an `s3://` URI. The `--storage` option
    replaces it.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of every stage that draws anything at random and does not set its own."""

    license: Annotated[str | None, Field(min_length=1)] = None
    """The licence that the run's models are given under, such as `apache-2.0`. It is written into their cards
    (README.md). `null` takes over the base's, where its card names one.
    """

    fingerprint_inputs: Annotated[Literal["stat", "content"], Field()] = "stat"
    """How raw input files are told apart. `stat` goes by size and time of change (ETag on S3), which costs nothing;
    `content` reads every file for its SHA-256, so that copies and touched files count as the same.
    """

    resources: ClusterResources = ClusterResources()
    """What a run on this machine may take, and what it must find free. On a cluster, Ray's own totals count."""

    environment: Environment = Environment()
    """What the job's processes get beside the cluster's own image."""


@dataclass(frozen=True)
class JobSpec:
    """A spec that holds together: head, stages in an order that respects their inputs, and where it came from."""

    head: SpecHead
    stages: dict[str, StageConfig]
    source: str  # the spec file, for messages
    directory: Path  # relative paths are relative to it

    def dependencies(self, name: str) -> dict[str, str]:
        """The stages that `name` takes: config field -> stage."""
        return {role: target for role, target in stage_inputs(self.stages[name]).items() if target in self.stages}

    def as_dict(self) -> dict[str, Any]:
        """The spec with every default filled in; loads again to the same spec."""
        stages = {name: config.model_dump(mode="json") for name, config in self.stages.items()}
        return {**self.head.model_dump(mode="json"), "stages": stages}


def stage_inputs(config: StageConfig) -> dict[str, str]:
    """The set inputs of a stage: role -> stage name or URI.

    A role is a field, or `field.0`, `field.1` of one that is a list, or `field.NAME` of one that is a mapping.
    """
    return dict(_roles((field, getattr(config, field)) for field in type(config).input_fields()))


def _roles(fields: Iterable[tuple[str, object]]) -> Iterator[tuple[str, str]]:
    for field, value in fields:
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, list | tuple):
            yield from ((f"{field}.{n}", item) for n, item in enumerate(value) if isinstance(item, str))
        elif isinstance(value, Mapping):
            yield from ((f"{field}.{name}", item) for name, item in value.items() if isinstance(item, str))


def input_field(role: str) -> str:
    """The config's field that a role of `stage_inputs` belongs to."""
    return role.partition(".")[0]


def is_outside_reference(target: str) -> bool:
    """Whether an input names a directory (a model or artifact of one's own) rather than a stage of the spec."""
    return "/" in target


def load_spec(path: str | Path, overrides: Mapping[str, Any] | None = None) -> JobSpec:
    """Read and check a spec file; `overrides` maps dotted paths ("stages.dpo.beta") to values.

    Raises `SpecError` with every problem found.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise SpecError([Problem("", str(path), f"can't be read: {error.strerror}")], str(path)) from error
    except UnicodeDecodeError as error:
        raise SpecError([Problem("", str(path), "is not UTF-8 text")], str(path)) from error
    try:
        raw = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f"line {where.line + 1}, column {where.column + 1}" if where else ""
        raise SpecError(
            [Problem(place, None, str(getattr(error, "problem", error)), "valid YAML")], str(path)
        ) from error
    if isinstance(raw, dict):
        for dotted, value in (overrides or {}).items():
            _override(raw, dotted, value)
    return parse_spec(raw, source=str(path), directory=path.resolve().parent)


def parse_spec(raw: object, *, source: str, directory: Path) -> JobSpec:
    """Check a spec given as plain values. Raises `SpecError` with every problem found."""
    if not isinstance(raw, dict):
        raise SpecError([Problem("", raw, "is not a mapping", "top-level keys name, storage and stages")], source)
    problems: list[Problem] = []
    head_values = {key: value for key, value in raw.items() if key != "stages"}
    head = _validate(SpecHead, head_values, "", problems, also_allowed=("stages",))
    raw_stages = raw.get("stages")
    if not isinstance(raw_stages, dict) or not raw_stages:
        problems.append(Problem("stages", raw_stages, "must be a mapping of at least one stage", "NAME: {kind: ...}"))
        raise SpecError(problems, source)
    stages: dict[str, StageConfig] = {}
    kinds: dict[str, StageKind] = {}
    raw_stages = {str(name): values for name, values in raw_stages.items()}
    for name, values in raw_stages.items():
        if not re.match(NAME_PATTERN, name):
            problems.append(Problem(f"stages.{name}", name, "is no stage name", "letters, digits, '.', '_' and '-'"))
        kind = _stage_kind(name, values, problems)
        if kind is not None:
            kinds[name] = kind
            completed = {"kind": kind.name, **(values or {})}
            config = _validate(kind.config, completed, f"stages.{name}", problems)
            if config is not None:
                stages[name] = _resolve_paths(config, directory)
    order = _check_graph(raw_stages, kinds, problems, directory)
    for name, kind in kinds.items():
        _check_files(name, kind.config, stages.get(name), raw_stages[name] or {}, directory, problems)
    for name, config in stages.items():
        _check_nested_files(name, config, problems)
    if problems or head is None:
        raise SpecError(problems, source)
    head = head.model_copy(update={"storage": _absolute(head.storage, directory)})
    return JobSpec(head, {name: stages[name] for name in order}, source, directory)


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last, and reads 3e-4 as a number."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


# YAML 1.1 takes 3e-4 for a string, since it has no dot.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        child = raw.setdefault(parent, {})
        if not isinstance(child, dict):
            raise SpecError([Problem(dotted, value, f"{parent!r} is no mapping, so nothing can be set below it")])
        raw = child
    raw[last] = value


def _stage_kind(name: str, values: object, problems: list[Problem]) -> StageKind | None:
    path = f"stages.{name}"
    if values is not None and not isinstance(values, dict):
        problems.append(Problem(path, values, "must be a mapping of settings"))
        return None
    kind = (values or {}).get("kind", name)
    if not isinstance(kind, str) or kind not in STAGE_KINDS:
        broken = f"; of a kind that another package declares: {BROKEN_KINDS[kind]}" if kind in BROKEN_KINDS else ""
        problems.append(Problem(f"{path}.kind", kind, f"is no stage kind{broken}", _suggest(str(kind), STAGE_KINDS)))
        return None
    return STAGE_KINDS[kind]


def _validate(
    model: type[_Model], values: Mapping[str, Any], path: str, problems: list[Problem], also_allowed: Sequence[str] = ()
) -> _Model | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
    for detail in details:
        problems.extend(_problems(model, detail, path, also_allowed))
    # Pydantic looks at how settings go together only where each is right by itself, so look again without the
    # misspelt ones. (Without a setting of a wrong type, its default would be held against the others.)
    if details and all(detail["type"] == "extra_forbidden" for detail in details):
        try:
            model.model_validate(_without(values, [detail["loc"] for detail in details]))
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                problems.extend(_problems(model, detail, path, also_allowed))
    return None


def _without(values: Mapping[str, Any], places: Sequence[tuple[int | str, ...]]) -> dict[str, Any]:
    """A copy of nested `values` without the keys at `places`."""
    copied: dict[str, Any] = copy.deepcopy(dict(values))
    for *parents, last in places:
        inner: Any = copied
        for key in parents:
            inner = inner[key]
        inner.pop(last, None)
    return copied


def _problems(
    model: type[BaseModel], detail: ErrorDetails, path: str, also_allowed: Sequence[str]
) -> Iterator[Problem]:
    location = [str(part) for part in detail["loc"]]
    full = ".".join([*([path] if path else []), *location])
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConflictingSettings):
        for setting, message in cause.conflicts:
            yield Problem(f"{full}.{setting}", detail["input"].get(setting), message)
        return
    if detail["type"] == "extra_forbidden":
        known = [*_fields_at(model, detail["loc"][:-1]), *also_allowed]
        yield Problem(full, detail["input"], "is not a setting", _suggest(location[-1], known))
        return
    if detail["type"] == "missing":
        yield Problem(full, None, "is required", _description(model, detail["loc"]))
        return
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    shown = detail["input"] if not isinstance(detail["input"], dict) else None
    yield Problem(full, shown, message[:1].lower() + message[1:], _description(model, detail["loc"]))


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """The nested model a location leads to, through optional fields."""
    for part in location:
        info = model.model_fields.get(str(part))
        candidates = [] if info is None else [info.annotation, *getattr(info.annotation, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return None
        model = nested[0]
    return model


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    found = _model_at(model, location)
    return list(found.model_fields) if found else []


def _description(model: type[BaseModel], location: Sequence[int | str]) -> str:
    parent = _model_at(model, location[:-1])
    info = parent.model_fields.get(str(location[-1])) if parent and location else None
    return info.description or "" if info else ""


def _suggest(given: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}allowed: {', '.join(names)}"


def _check_graph(
    raw_stages: Mapping[str, Any],
    kinds: Mapping[str, StageKind],
    problems: list[Problem],
    directory: Path,
) -> list[str]:
    """Check every reference, also of stages whose other settings are wrong; returns the stages in order."""
    edges: dict[str, list[str]] = {name: [] for name in kinds}
    for name, stage_kind in kinds.items():
        values = raw_stages[name] or {}
        for role, target in _roles(
            (field, values.get(field)) for field in stage_kind.inputs
        ):  # wrong types: the schema
            field = input_field(role)
            needed = " or ".join(kind.name for kind in STAGE_KINDS.values() if stage_kind.takes(field, kind))
            path = f"stages.{name}.{role}"
            if is_outside_reference(target):
                try:
                    uri = _absolute(target, directory)
                    if not storage.exists(uri):
                        problems.append(
                            Problem(path, target, "does not exist", "a directory with a model or an artifact")
                        )
                    elif stage_kind.inputs[field].model is not None:
                        found = light_findings(uri)
                        problems.extend(Problem(path, target, wrong.what, wrong.mend) for wrong in found)
                except (InputError, StorageError) as error:
                    problems.append(Problem(path, target, str(error)))
            elif target not in raw_stages:
                allowed = [other for other, kind in kinds.items() if stage_kind.takes(field, kind)]
                problems.append(Problem(path, target, "is no stage of this spec", f"a {needed} stage: {allowed}"))
            elif target in kinds:
                if not stage_kind.takes(field, kinds[target]):
                    problems.append(Problem(path, target, f"is a {kinds[target].name} stage", f"needed: {needed}"))
                edges[name].append(target)
    return _topological_order(edges, problems)


def _topological_order(edges: Mapping[str, list[str]], problems: list[Problem]) -> list[str]:
    """The stages, each after its inputs and otherwise as the spec has them. A cycle is a problem."""
    sorter = TopologicalSorter(edges)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = list(reversed(error.args[1]))  # which names each stage behind what it waits for
        problems.append(Problem(f"stages.{cycle[0]}", " -> ".join(cycle), "the stages wait for one another in a cycle"))
        return list(edges)
    place = {name: number for number, name in enumerate(edges)}
    order: list[str] = []
    ready: set[str] = set()
    while sorter.is_active():
        ready |= set(sorter.get_ready())
        name = min(ready, key=place.__getitem__)
        ready.remove(name)
        order.append(name)
        sorter.done(name)
    return order


def _check_files(
    name: str,
    config_class: type[StageConfig],
    config: StageConfig | None,
    values: Mapping[str, Any],
    directory: Path,
    problems: list[Problem],
) -> None:
    """Check raw inputs, also of stages whose other settings are wrong (`config` is None)."""
    for field in config_class.file_fields():
        patterns = values.get(field)
        for index, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
            if isinstance(pattern, str):
                where = f"stages.{name}.{field}.{index}"
                problems.extend(_input_problems(where, pattern, directory, config))


def _input_problems(where: str, pattern: str, directory: Path, config: StageConfig | None) -> Iterator[Problem]:
    """What is wrong with the files that a pattern stands for; of files that can't be read, the first."""
    try:
        files = storage.expand(_absolute(pattern, directory))
        if not files:
            yield Problem(where, pattern, "matches no file", "a file, directory or glob")
        if config is not None:
            for file in files:
                config.check_input(file.uri)
    except (InputError, StorageError) as error:
        yield Problem(where, pattern, str(error))


def _check_nested_files(name: str, config: StageConfig, problems: list[Problem]) -> None:
    """Check the files that settings name at any depth, in a config whose paths are absolute."""
    for path, patterns in config.reference_files().items():
        for index, pattern in enumerate(patterns):
            problems.extend(_input_problems(f"stages.{name}.{path}.{index}", pattern, Path("/"), None))
    for path, inputs in config.raw_inputs().items():
        if "." in path:  # `_check_files` looks at the others, whatever else is wrong
            for index, pattern in enumerate(inputs):
                problems.extend(_input_problems(f"stages.{name}.{path}.{index}", pattern, Path("/"), config))


def _resolve_paths(config: StageConfig, directory: Path) -> StageConfig:
    """The config with the relative paths of its raw inputs and outside references made absolute."""
    updates: dict[str, Any] = {
        field: [_absolute(pattern, directory) for pattern in patterns]
        for field, patterns in config.raw_inputs().items()
        if patterns and "." not in field
    }
    for role, target in stage_inputs(config).items():
        absolute = _absolute(target, directory) if is_outside_reference(target) else target
        field = input_field(role)
        if field == role:
            updates[field] = absolute
        elif isinstance(getattr(config, field), Mapping):
            updates[field] = {**updates.get(field, {}), role.removeprefix(f"{field}."): absolute}
        else:
            updates[field] = [*updates.get(field, []), absolute]
    resolved = config.model_copy(update=updates)
    nested = {path: tuple(files) for path, files in config.raw_inputs().items() if "." in path}
    nested |= config.reference_files()
    if not nested:
        return resolved
    return resolved.with_files(
        {path: [_absolute(pattern, directory) for pattern in patterns] for path, patterns in nested.items()}
    )


def _absolute(uri: str, directory: Path) -> str:
    if not storage.is_local(uri):
        return uri
    return os.path.normpath(directory / storage.local_path(uri).expanduser())
