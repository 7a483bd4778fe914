"""A model's card: README.md beside the weights, which says what a model was made of, how, and what came out.

It is written as the stage ends, from the settings and metrics of all stages that lead to the model, so nothing in it is
said by hand but the licence. Paths of this machine are not in it; a date is not
either, so that the same stage writes the same file again. `model_card` is a function of its arguments alone.

The head in YAML and its keys (license, base_model, library_name, pipeline_tag, tags) are those of the Hugging Face Hub.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from cluster.contracts.config import StageConfig
from cluster.contracts.stage_kind import StageKind

CARD = "README.md"
UNKNOWN_LICENCE = "other"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>])")
_PIPELINES = {"policy": "text-generation", "reward": "text-classification"}


@dataclass(frozen=True)
class CardStage:
    """A stage that leads to a model, as its card tells it."""

    name: str
    kind: StageKind
    fingerprint: str
    settings: Mapping[str, Any]  # those that were set, as plain values
    files: Mapping[str, Sequence[str]]  # field -> raw inputs, as given
    inputs: Mapping[str, str]  # role -> the stage it takes, or the name of a directory from outside
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseModel:
    """A model from outside that the lineage begins with."""

    name: str
    license: str | None = None  # as its own card says


def card_stage(
    name: str,
    kind: StageKind,
    config: StageConfig,
    *,
    fingerprint: str,
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
    defaults: bool = False,
) -> CardStage:
    """A stage of a run for a card. What changes no result is left out, and without `defaults`, so are those."""
    unsaid = {"kind", *config.input_fields(), *config.file_fields(), *config.fields_not_in_fingerprint()}
    settings = config.model_dump(mode="json", exclude_defaults=not defaults, exclude=unsaid)
    for path, files in config.reference_files().items():
        _replace(settings, path.split("."), [posixpath.basename(file) for file in files])
    return CardStage(name, kind, fingerprint, settings, config.raw_inputs(), inputs, metrics)


def model_card(
    run: str, stage: CardStage, ancestors: Sequence[CardStage], *, licence: str | None, bases: Sequence[BaseModel] = (),
    is_adapter: bool = False,
) -> str:  # fmt: skip
    """The card of the model that `stage` of the run `run` made.

    `ancestors` are the stages that lead to it, each behind its own inputs. `licence` is the user's word; without it,
    the one that all `bases` have is taken over, and `UNKNOWN_LICENCE` where they have none or several.
    """
    licenses = {base.license for base in bases}
    inherited = next(iter(licenses)) if len(licenses) == 1 else None
    head: dict[str, Any] = {
        "license": _one_line(licence or inherited or UNKNOWN_LICENCE),
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": _PIPELINES[str(stage.kind.model)],
        "tags": ["raymill", stage.kind.name],
    }
    if bases:
        head["base_model"] = [_one_line(base.name) for base in bases]
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {plain(run)}: {plain(stage.name)}",
        f"Made by the stage {code(stage.name)} ({plain(stage.kind.name)}: {plain(stage.kind.summary)}) of the Raymill "
        f"run {code(run)}, fingerprint {code(stage.fingerprint)}. This page is written from the run's own record.",
        *_license_words(licence, inherited, bases),
        "## Figures",
        _table(("figure", "value"), [(code(name), figure(value)) for name, value in _scalars(stage)])
        or "The stage has none.",
        "## Settings",
        _settings(stage) or "The stage has none.",
        "## Data",
        *_data(ancestors),
        "## Lineage",
        _table(
            ("stage", "kind", "takes", "fingerprint"),
            [_lineage_row(ancestor) for ancestor in (*ancestors, stage)],
        ),
    ]  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


# ---------------------------------------------------------------------------------------------------------- parts


def _license_words(licence: str | None, inherited: str | None, bases: Sequence[BaseModel]) -> Iterator[str]:
    if licence:
        yield f"Licence: {plain(licence)}, as the run's spec says."
    elif inherited:
        yield f"Licence: {plain(inherited)}, which is the base's."
    else:
        yield (
            "Licence: not known to the run. Its spec names none (`license`), and what the data and the base allow is "
            "for whoever publishes the model to find out."
        )
    for base in bases:
        yield f"Base: {code(base.name)}, licence {plain(base.license) if base.license else 'not in its card'}."


def _lineage_row(stage: CardStage) -> tuple[str, ...]:
    taken = ", ".join(code(name) for name in dict.fromkeys(stage.inputs.values()))
    return code(stage.name), plain(stage.kind.name), taken, code(stage.fingerprint)


def _data(ancestors: Sequence[CardStage]) -> Iterator[str]:
    """What the lineage read, kept and filtered, stage by stage; models in between have their own cards."""
    told = [stage for stage in ancestors if stage.kind.model is None]
    if not told:
        yield "No stage of the run read data of its own but those that made models; see their cards."
        return
    yield "Licences of the data are not recorded by the run."
    for stage in told:
        yield f"### {plain(stage.name)} ({plain(stage.kind.summary)})"
        for name, files in stage.files.items():
            shown = ", ".join(code(posixpath.basename(file.rstrip("/"))) for file in files)
            if shown:
                yield f"Files ({code(name)}): {shown}"
        wanted = dict.fromkeys(
            [*stage.kind.figures.headline, *(name for name in stage.metrics if name.startswith("num_"))]
        )
        rows = [(code(name), figure(stage.metrics[name])) for name in wanted if _is_scalar(stage.metrics.get(name))]
        yield _table(("count", "value"), rows)
        yield _settings(stage)


def _settings(stage: CardStage) -> str:
    if not stage.settings:
        return ""
    text = yaml.safe_dump(dict(stage.settings), sort_keys=False, allow_unicode=True).rstrip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{_one_line_controls(text)}\n{fence}"


def _scalars(stage: CardStage) -> list[tuple[str, Any]]:
    """The stage's figures, those of its headline first."""
    first = [name for name in stage.kind.figures.headline if name in stage.metrics]
    names = dict.fromkeys([*first, *sorted(stage.metrics)])
    return [(name, stage.metrics[name]) for name in names if _is_scalar(stage.metrics[name])]


def _is_scalar(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(value: object) -> str:
    """A figure as people read it; text is escaped."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))


def plain(text: str) -> str:
    """Text that a Markdown page shows as it is: on one line, with no markup, links or HTML of its own."""
    return html.escape(_MARKDOWN.sub(r"\\\1", _one_line(text)), quote=False)


def code(text: str) -> str:
    """Text in a span of code, whatever backticks or bars it holds."""
    text = _one_line(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{space}{text}{space}{fence}"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _one_line_controls(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _replace(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the entry at a path of nested dictionaries, where it is there."""
    *parents, last = path
    inner: Any = settings
    for key in parents:
        inner = inner.get(key) if isinstance(inner, dict) else None
    if isinstance(inner, dict) and last in inner:
        inner[last] = value
