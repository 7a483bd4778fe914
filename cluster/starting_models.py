"""The models that stages are given: checked before any worker starts, and adapters merged with their base.

Settings that are handed on to libraries are checked along with them, so that all that is wrong is told at once.

Directories that no stage made are checked twice. `raymill plan` looks at file names and heads of weight files
(`quick_problems`, by way of the spec's check); a run has transformers look at them too before Ray starts, so that a
missing tensor is not found hours later. A model that a stage of the run makes is checked when its user's turn comes.

What a stage is given is always a whole model. An adapter, of a stage or from outside, is merged with its base once, to
`<storage>/merged/<fingerprint>`, and every stage that starts from it takes that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal
from uuid import uuid4

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, read_artifact, write_manifest
from cluster.contracts.errors import InputError, Problem, SpecError, StageFailed
from cluster.contracts.stage_kind import load
from cluster.fingerprint import digest
from cluster.plan import PlannedStage
from cluster.run_record import artifact_lock
from cluster.spec import input_field, is_outside_reference, stage_inputs
from cluster.stage_kinds import STAGE_KINDS
from training.base_model.adapter_layers import adapter_base

Role = Literal["policy", "reward"]
MERGED_KIND = "merged"
_LONGEST_MERGE_S = 3600.0  # for which the other ranks of torchrun wait


def check_models_and_settings(stages: Sequence[PlannedStage], scratch: Path, source: str) -> None:
    """Raise `SpecError` with all that is wrong with the stages' model directories from outside, and with settings.

    The settings are those that libraries judge, which takes the seconds that importing them takes.
    """
    problems = [problem for stage in stages for problem in _setting_problems(stage)]
    problems += [
        problem
        for stage in stages
        for role, target in stage_inputs(stage.config).items()
        if is_outside_reference(target)
        for problem in _model_problems(stage, role, target, scratch)
    ]
    by_name = {stage.name: stage for stage in stages}
    problems += [problem for stage in stages for problem in _origin_problems(stage, by_name, scratch)]
    if problems:
        raise SpecError(problems, source)


def starting_models(
    stage: PlannedStage, inputs: Mapping[str, Artifact], *, storage_uri: str, scratch: Path, is_main: bool = True
) -> dict[str, Artifact]:
    """A stage's inputs, its models checked, and each that is an adapter replaced by what it makes of its base.

    Of several ranks that call this, the one with `is_main` merges and the others wait. Raises `SpecError` with all that
    is wrong with the models.
    """
    problems = [
        problem for role, artifact in inputs.items() for problem in _model_problems(stage, role, artifact.uri, scratch)
    ]
    if problems:
        raise SpecError(problems, f"stage {stage.name}")
    whole = {}
    for role, artifact in inputs.items():
        model = type(stage.config).input_fields()[input_field(role)].model
        whole[role] = artifact
        if model is not None:
            whole[role] = whole_model(
                artifact,
                model,
                fingerprint=stage.input_fingerprints[role],
                storage_uri=storage_uri,
                scratch=scratch,
                is_main=is_main,
            )
    return whole


def whole_model(
    artifact: Artifact, model: Role, *, fingerprint: str, storage_uri: str, scratch: Path, is_main: bool = True
) -> Artifact:
    """The model that an adapter makes of its base, merged now or before; an artifact that is no adapter as it is."""
    if adapter_base(artifact.uri) is None:
        return artifact
    merged = storage.join(storage_uri, MERGED_KIND, digest([fingerprint, model]))
    return _merged(artifact, merged, model, scratch) if is_main else _awaited(merged)


def _setting_problems(stage: PlannedStage) -> Iterator[Problem]:
    check = STAGE_KINDS[stage.kind].check_settings
    if check:
        try:
            load(check)(stage.config)
        except InputError as error:
            yield Problem(f"stages.{stage.name}", None, str(error))


def _origin_problems(stage: PlannedStage, by_name: Mapping[str, PlannedStage], scratch: Path) -> Iterator[Problem]:
    """What is wrong with models that stages before this one will make, as far as where they begin tells."""
    from training.base_model.check import findings_of_origin  # imports torch

    for role, target in stage_inputs(stage.config).items():
        field = input_field(role)
        needs = stage.config.model_needs(field)
        if target not in by_name or not needs.answers or type(stage.config).input_fields()[field].model != "policy":
            continue
        origin: str | None = target
        while origin is not None and origin in by_name:
            before = by_name[origin].config
            policies = [
                other
                for start, other in stage_inputs(before).items()
                if type(before).input_fields()[input_field(start)].model == "policy"
            ]
            origin = policies[0] if len(policies) == 1 else None
        if origin is not None and is_outside_reference(origin):
            for finding in findings_of_origin(origin, needs, scratch=scratch):
                yield Problem(f"stages.{stage.name}.{role}", origin, finding.what, finding.mend)


def _model_problems(stage: PlannedStage, role: str, uri: str, scratch: Path) -> Iterator[Problem]:
    field = input_field(role)
    model = type(stage.config).input_fields()[field].model
    if model is None:
        return
    from training.base_model.check import model_findings  # imports torch

    for finding in model_findings(uri, stage.config.model_needs(field), model, scratch=scratch):
        yield Problem(f"stages.{stage.name}.{role}", uri, finding.what, finding.mend)


def _merged(adapter: Artifact, uri: str, model: Role, scratch: Path) -> Artifact:
    """The artifact at `uri`, made of the adapter and its base unless it is there; its metrics are the adapter's."""
    with artifact_lock(uri):
        found = read_artifact(uri)
        if found is not None:
            return found
        from training.base_model.merge import merge_adapter
        from training.export import publish_directory

        local = scratch / uuid4().hex
        merge_adapter(adapter.uri, model, target=local, scratch=scratch)
        files = publish_directory(local, uri)
        manifest = replace(
            adapter.manifest,
            kind=MERGED_KIND,
            fingerprint=uri.rpartition("/")[2],
            inputs={"adapter": adapter.manifest.fingerprint},
            num_files=len(files),
            num_bytes=sum(file.size for file in files),
        )
        write_manifest(uri, manifest, files)
        return Artifact(uri, manifest)


def _awaited(uri: str) -> Artifact:
    deadline = time.monotonic() + _LONGEST_MERGE_S
    while time.monotonic() < deadline:
        found = read_artifact(uri)
        if found is not None:
            return found
        time.sleep(0.5)
    raise StageFailed(f"rank 0 did not merge the adapter with its base: there is nothing at {uri}")
