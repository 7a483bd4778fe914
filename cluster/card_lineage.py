"""Gathers what a model's card tells: the stages that lead to it, and the models from outside that they begin with."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence

import yaml

from cluster.contracts import storage
from cluster.contracts.artifacts import StageResult, read_artifact
from cluster.contracts.commit import WrittenFile
from cluster.model_card import CARD, BaseModel, CardStage, card_stage, model_card
from cluster.plan import PlannedStage
from cluster.spec import JobSpec, input_field, is_outside_reference, stage_inputs
from cluster.stage_kinds import STAGE_KINDS
from training.base_model.adapter_layers import adapter_base
from training.base_model.directory import ADAPTER_CONFIG


def write_card(
    stage: PlannedStage, plan: Sequence[PlannedStage], spec: JobSpec, result: StageResult
) -> WrittenFile | None:
    """Write the card of the model that `stage` made into its artifact; None where it made none, or wrote its own."""
    kind = STAGE_KINDS[stage.kind]
    names = {file.name for file in result.files}
    if kind.model is None or CARD in names:
        return None
    by_name = {planned.name: planned for planned in plan}
    text = model_card(
        spec.head.name,
        _card_stage(stage, result.metrics, defaults=True),
        [_card_stage(by_name[name], _metrics(by_name[name])) for name in ancestors(stage, by_name)],
        licence=spec.head.license,
        bases=_bases(stage, by_name),
        is_adapter=ADAPTER_CONFIG in names,
    )
    content = text.encode()
    storage.write_bytes(storage.join(stage.uri, CARD), content)
    return WrittenFile(CARD, len(content), hashlib.sha256(content).hexdigest())


def ancestors(stage: PlannedStage, by_name: Mapping[str, PlannedStage]) -> list[str]:
    """The stages that lead to `stage`, each behind its own inputs."""
    found: dict[str, None] = {}

    def visit(planned: PlannedStage) -> None:
        for target in stage_inputs(planned.config).values():
            if target in by_name and target not in found:
                visit(by_name[target])
                found[target] = None

    visit(stage)
    return list(found)


def _card_stage(planned: PlannedStage, metrics: Mapping[str, object], *, defaults: bool = False) -> CardStage:
    inputs = {
        role: posixpath.basename(target.rstrip("/")) if is_outside_reference(target) else target
        for role, target in stage_inputs(planned.config).items()
    }
    kind = STAGE_KINDS[planned.kind]
    return card_stage(
        planned.name,
        kind,
        planned.config,
        fingerprint=planned.fingerprint,
        inputs=inputs,
        metrics=metrics,
        defaults=defaults,
    )


def _metrics(planned: PlannedStage) -> Mapping[str, object]:
    artifact = read_artifact(planned.uri)
    return artifact.manifest.metrics if artifact is not None else {}


def _bases(stage: PlannedStage, by_name: Mapping[str, PlannedStage]) -> list[BaseModel]:
    """The models from outside that the weights of `stage` come from: along the inputs that a stage starts from."""
    config = stage.config
    bases: dict[str, BaseModel] = {}
    marks = type(config).input_fields()
    for role, target in stage_inputs(config).items():
        if marks[input_field(role)].model != "policy":
            continue
        if not is_outside_reference(target):
            bases.update({base.name: base for base in _bases(by_name[target], by_name)})
            continue
        uri: str | None = target
        while uri is not None:
            name = posixpath.basename(uri.rstrip("/"))
            bases[name] = BaseModel(name, card_license(uri))
            uri = adapter_base(uri)
    return list(bases.values())


def card_license(uri: str) -> str | None:
    """The licence in the head of a model directory's own card, or None."""
    try:
        text = storage.read_bytes(storage.join(uri, CARD)).decode(errors="replace")
        head = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (FileNotFoundError, IndexError, yaml.YAMLError):
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    return licence if isinstance(licence, str) else None
