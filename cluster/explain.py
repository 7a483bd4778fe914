"""`raymill explain`: the settings of a kind of stage, of a spec's head, or one of them, as wrapped plain text.

Names stand on lines of their own and are never cut or wrapped, however narrow the terminal.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from cluster.contracts.errors import Problem, SpecError
from cluster.setting_texts import Setting, as_yaml, sections_of, settings_of
from cluster.spec import SpecHead
from cluster.stage_kinds import STAGE_KINDS

SPEC = "spec"  # stands for the top level of a spec where a kind's name is asked for
_SPEC_SUMMARY = "a spec's top level: name, storage, seed, resources, environment"
_STAGES = (
    "The stages: name to settings. A stage's `kind` says what it is, and may be left out where its name is the kind's."
    " A setting that takes a stage names another one, or a directory, which is told by a slash in it."
)


def explain(target: str | None, console: Console) -> None:
    """Write what `target` is: None (all kinds), a kind, "spec", or one setting of these ("clean.c4", "spec.seed").

    Raises `SpecError` for a name that is none of these, with what may have been meant.
    """
    if target is None:
        _explain_kinds(console)
        return
    name, _, path = target.partition(".")
    if name not in STAGE_KINDS and name != SPEC:
        raise _unknown_kind(name)
    if path:
        _explain_setting(name, path, console)
    else:
        _explain_all(name, console)


def _model(name: str) -> type[BaseModel]:
    return SpecHead if name == SPEC else STAGE_KINDS[name].config


def _explain_kinds(console: Console) -> None:
    summaries = {SPEC: _SPEC_SUMMARY} | {kind.name: kind.summary for kind in STAGE_KINDS.values()}
    for name, summary in summaries.items():
        _name(console, name)
        _write(console, summary, indent=4)
    console.print()
    _write(console, "raymill explain KIND lists its settings; raymill explain KIND.SETTING explains one of them.")


def _explain_all(name: str, console: Console) -> None:
    kind = STAGE_KINDS.get(name)
    _write(console, f"{name}: {kind.summary if kind else _SPEC_SUMMARY}", style="bold")
    for paragraph in paragraphs(_model(name)):
        console.print()
        _write(console, paragraph)
    if kind and kind.makes:
        console.print()
        _write(console, f"Makes: {kind.makes}")
    for title, settings in sections_of(_model(name)):
        if title:
            console.print()
            console.print(Text(title.upper(), style="dim"), soft_wrap=True)
        for setting in settings:
            console.print()
            _explain_one(setting, console, in_fingerprint=kind is not None)
    if kind is None:
        console.print()
        _name(console, "stages")
        _write(console, "mapping of name to settings. Required.", indent=4, style="dim")
        _write(console, _STAGES, indent=4)
    elif kind.example:
        console.print()
        console.print(Text("EXAMPLE", style="dim"), soft_wrap=True)
        console.print()
        _lines(console, kind.example)


def _explain_setting(name: str, path: str, console: Console) -> None:
    settings = list(settings_of(_model(name)))
    chosen = next((setting for setting in settings if setting.path == path), None)
    if chosen is None:
        raise _unknown_setting(name, path, settings)
    _name(console, f"{name}.{path}")
    _write(console, facts(chosen, in_fingerprint=name != SPEC, full=True), indent=4, style="dim")
    _write(console, chosen.meaning, indent=4)
    for setting in settings:
        if setting.path.startswith(path + "."):
            console.print()
            _explain_one(setting, console, in_fingerprint=name != SPEC)
    console.print()
    console.print(Text("EXAMPLE", style="dim"), soft_wrap=True)
    console.print()
    _lines(console, example_of(name, chosen))


def _explain_one(setting: Setting, console: Console, *, in_fingerprint: bool) -> None:
    _name(console, setting.path)
    _write(console, facts(setting, in_fingerprint=in_fingerprint), indent=4, style="dim")
    _write(console, setting.meaning, indent=4)


def facts(setting: Setting, *, in_fingerprint: bool = True, full: bool = False) -> str:
    """Type, default and whether the setting changes results, as a line of text."""
    default = "Required." if setting.default is None else f"Default: {setting.default}."
    unchanged = " Does not change results." if in_fingerprint and not setting.changes_results else ""
    return f"{setting.full_type if full else setting.type}. {default}{unchanged}"


def paragraphs(model: type[BaseModel]) -> list[str]:
    """The docstring of a settings' model, a line a paragraph."""
    text = textwrap.dedent("    " + (model.__doc__ or ""))
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def example_of(name: str, setting: Setting) -> str:
    """The setting as a spec writes it, with the kind's own example value where its example has one."""
    path = setting.path.split(".")
    value = setting.example
    if name != SPEC:
        worked: object = (yaml.safe_load(STAGE_KINDS[name].example or "{}") or {}).get("stages", {}).get(name, {})
        for part in path:
            worked = worked.get(part) if isinstance(worked, dict) else None
        value = value if worked is None else as_yaml(worked)
        path = ["stages", name, *path]
    lines = [f"{'  ' * depth}{key}:" for depth, key in enumerate(path)]
    return "\n".join([*lines[:-1], f"{lines[-1]} {value}"])


def _unknown_kind(name: str) -> SpecError:
    owners = [
        f"{kind.name}.{setting.path}"
        for kind in STAGE_KINDS.values()
        for setting in settings_of(kind.config)
        if setting.path == name
    ]
    names = [*STAGE_KINDS, SPEC]
    if owners:
        hint = f"settings of that name: {', '.join(owners)}"
    else:
        hint = f"{_did_you_mean(name, names)}allowed: {', '.join(names)}"
    return SpecError([Problem("kind", name, "is no stage kind", hint)], "explain")


def _unknown_setting(name: str, path: str, settings: Iterable[Setting]) -> SpecError:
    paths = [setting.path for setting in settings]
    last = path.rpartition(".")[2]
    same_name = [known for known in paths if known.rpartition(".")[2] == last]
    hint = (
        f"did you mean {' or '.join(repr(known) for known in same_name)}? " if same_name else _did_you_mean(path, paths)
    )
    hint += f"`raymill explain {name}` lists them all"
    return SpecError([Problem(name, path, "is not a setting", hint)], "explain")


def _did_you_mean(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1) or difflib.get_close_matches(
        given, [name for name in known if "." in name], n=1, cutoff=0.5
    )
    return f"did you mean {close[0]!r}? " if close else ""


def _name(console: Console, name: str) -> None:
    console.print(Text(name, style="bold"), soft_wrap=True)


def _write(console: Console, text: str, *, indent: int = 0, style: str = "") -> None:
    """Paragraph, wrapped to the console's width; a word that is longer than that stays whole."""
    margin = " " * indent
    wrapped = textwrap.wrap(
        text,
        max(console.width, indent + 20),
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in wrapped:
        console.print(Text(line, style=style), soft_wrap=True)


def _lines(console: Console, text: str) -> None:
    for line in text.rstrip().splitlines():
        console.print(Text(f"    {line}"), soft_wrap=True)
