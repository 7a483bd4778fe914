"""From a spec to what would run: each stage's fingerprint, its place, and whether it is there already.

Fingerprints follow from settings and raw inputs alone, so the whole graph is known before anything starts. Planning
changes nothing, and imports neither Ray nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, Manifest, open_artifact, read_artifact
from cluster.contracts.config import StageConfig
from cluster.contracts.errors import InputError, Problem, ResourceError, SpecError
from cluster.fingerprint import digest, directory_fingerprint, file_identities, settings_fingerprint, stage_fingerprint
from cluster.spec import JobSpec, input_field, is_outside_reference, stage_inputs
from cluster.stage_kinds import STAGE_KINDS
from training.base_model.adapter_layers import adapter_base

OUTSIDE_KIND = "outside"


@dataclass(frozen=True)
class PlannedStage:
    """One stage, ready to run or to be taken from what is there."""

    name: str
    config: StageConfig
    fingerprint: str
    uri: str
    parts_uri: str  # for per-input parts that artifacts of the same settings share
    inputs: dict[str, str]  # role -> URI
    input_fingerprints: dict[str, str]
    finished: bool

    @property
    def kind(self) -> str:
        return self.config.kind


def make_plan(spec: JobSpec) -> list[PlannedStage]:
    """All stages of a spec in the order in which they run. Lists raw inputs, and looks for artifacts in the storage."""
    seed = spec.head.seed
    planned: dict[str, PlannedStage] = {}
    for name, config in spec.stages.items():
        uris: dict[str, str] = {}
        fingerprints: dict[str, str] = {}
        for role, target in stage_inputs(config).items():
            if is_outside_reference(target):
                outside = read_artifact(target)
                uris[role] = target
                fingerprints[role] = outside.manifest.fingerprint if outside else _outside_fingerprint(target)
            else:
                uris[role] = planned[target].uri
                fingerprints[role] = planned[target].fingerprint
        files = {
            field: file_identities(patterns, spec.head.fingerprint_inputs)
            for field, patterns in config.raw_inputs().items()
        }
        fingerprint = stage_fingerprint(config, seed=seed, inputs=fingerprints, files=files)
        uri = storage.join(spec.head.storage, config.kind, fingerprint)
        parts = storage.join(spec.head.storage, "parts", config.kind, settings_fingerprint(config, seed))
        planned[name] = PlannedStage(
            name, config, fingerprint, uri, parts, uris, fingerprints, finished=read_artifact(uri) is not None
        )
    return list(planned.values())


def open_inputs(stage: PlannedStage) -> dict[str, Artifact]:
    """Role -> input artifact of a stage. A model directory without a manifest becomes an artifact of kind "outside".

    Raises `InputError` where an artifact is not there yet, or is of a kind that the stage does not take.
    """
    inputs = {}
    targets, marks = stage_inputs(stage.config), type(stage.config).input_fields()
    for role, uri in stage.inputs.items():
        if is_outside_reference(targets[role]):
            found = read_artifact(uri)
            if found is not None and not marks[input_field(role)].takes(found.manifest.kind, _model_of(found)):
                raise InputError(f"stages.{stage.name}.{role}: {uri} is a {found.manifest.kind!r} artifact")
            outside = Manifest(OUTSIDE_KIND, stage.input_fingerprints[role], config={}, inputs={})
            inputs[role] = found or Artifact(uri, outside)
        else:
            inputs[role] = open_artifact(uri)
    return inputs


def _outside_fingerprint(uri: str) -> str:
    """The fingerprint of a directory that no stage made; of an adapter, with all that it stands on."""
    base = adapter_base(uri)
    own = directory_fingerprint(uri)
    return own if base is None else digest([own, _outside_fingerprint(base)])


def _model_of(artifact: Artifact) -> str | None:
    """In which role the artifact is served: "policy", "reward" or none. Also of a kind that is not installed: none."""
    kind = STAGE_KINDS.get(artifact.manifest.kind)
    return kind.model if kind is not None else None


def check_roles(stages: list[PlannedStage], available: Mapping[str, float], where: str) -> None:
    """Raise `TooLargeForCluster` for stages whose processes, which run at the same time, do not fit; names all of them.

    Unchecked, two replicas of a whole CPU beside two workers of a whole CPU wait for each other for ever on 2 CPUs.
    `available` is Ray's resource table: {"CPU": 2.0, "GPU": 0.0, "memory": bytes}. `where` says whose it is.
    """
    problems = []
    for stage in stages:
        roles = stage.config.roles()
        needs = {
            "CPU": sum(count * r.cpus for _, count, r in roles),
            "GPU": sum(count * r.gpus for _, count, r in roles),
            "memory": sum(count * (r.memory_gib or 0) for _, count, r in roles) * 2**30,
        }
        parts = ", ".join(f"{count} x {role} ({r.cpus:g} CPU, {r.gpus:g} GPU)" for role, count, r in roles)
        for resource, need in needs.items():
            have = available.get(resource, 0.0)
            if need > have + 1e-9:
                unit = 2**30 if resource == "memory" else 1
                name = "GiB of memory" if resource == "memory" else resource
                problems.append(
                    Problem(
                        f"stages.{stage.name}",
                        None,
                        f"needs {need / unit:g} {name} at once ({parts}); {where} has {have / unit:g}",
                        "lower num_workers, num_replicas or cpus/gpus of these roles, or use a larger cluster",
                    )
                )
    if problems:
        raise TooLargeForCluster(problems)


class TooLargeForCluster(ResourceError, SpecError):
    """Stages ask for more than the cluster has; found before any worker starts."""

    exit_code = 3

    def __init__(self, problems: list[Problem], source: str = "The cluster is too small: the job") -> None:
        SpecError.__init__(self, problems, source)
