"""The reference pages, written from the settings themselves: docs/stages/*.md and job_specs/schema.json.

    python -m cluster.reference_pages     (or: make docs)

A test fails where these files are not what this would write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from cluster.contracts.config import InputFiles, InputOf
from cluster.contracts.stage_kind import StageKind
from cluster.explain import facts, paragraphs
from cluster.schema import own_kinds, schema_text, spec_schema
from cluster.setting_texts import Setting, sections_of, settings_of
from cluster.spec import SpecHead

ROOT = Path(__file__).resolve().parent.parent
PAGES = "docs/stages"
SCHEMA = "job_specs/schema.json"


def reference_files() -> dict[str, str]:
    """Path in the repository -> content, of every generated file."""
    kinds = own_kinds()
    return {
        **{f"{PAGES}/{kind.name}.md": _kind_page(kind) for kind in kinds},
        f"{PAGES}/spec.md": _spec_page(),
        f"{PAGES}/README.md": _index(kinds),
        SCHEMA: schema_text(spec_schema(kinds)),
    }


def _kind_page(kind: StageKind) -> str:
    config = kind.config
    own = {setting.path: setting for setting in settings_of(config)}
    takes = [name for name, info in config.model_fields.items() if _is_input(info.metadata)]
    return _page(
        config,
        f"# {kind.name}",
        *paragraphs(config),
        "**Takes**",
        "\n".join(f"- [`{name}`](#{_anchor(name)}): {own[name].type}" for name in takes),
        f"**Makes** {kind.makes}" if kind.makes else "",
        f"## Example\n\n```yaml\n{kind.example}```" if kind.example else "",
        "## Settings",
        *(_section(title, settings) for title, settings in sections_of(config)),
    )


def _spec_page() -> str:
    settings = [setting for _, section in sections_of(SpecHead) for setting in section]
    return _page(
        SpecHead,
        "# The top level of a spec",
        "Everything but the stages. `stages` holds these, name to settings; a stage's `kind` may be left out where its"
        " name is the kind's.",
        *(_setting(setting, in_fingerprint=False) for setting in settings),
    )


def _index(kinds: Iterable[StageKind]) -> str:
    rows = [f"- [{kind.name}]({kind.name}.md): {kind.summary}" for kind in kinds]
    return "\n\n".join(
        (
            "<!-- Written by `python -m cluster.reference_pages`. -->",
            "# The kinds of stages",
            "One page each: what the stage takes and makes, an example, and every setting with its type, default and"
            " meaning. `raymill explain KIND` shows the same in a terminal, and `raymill schema` makes a JSON Schema of"
            " it for editors. Settings that do not change results are left out of a stage's fingerprint: another value"
            " runs nothing again.",
            "\n".join(rows),
            "The keys beside `stages`, such as `storage` and `resources`: [the top level of a spec](spec.md).\n",
        )
    )


def _page(model: type[BaseModel], *blocks: str) -> str:
    source = f"{model.__module__.replace('.', '/')}.py"
    note = f"<!-- Written by `python -m cluster.reference_pages` from the docstrings in {source}. -->"
    return "\n\n".join(block for block in (note, *blocks) if block) + "\n"


def _section(title: str, settings: Iterable[Setting]) -> str:
    blocks = [_setting(setting) for setting in settings]
    return "\n\n".join([f"### {title}", *blocks] if title else blocks)


def _setting(setting: Setting, *, in_fingerprint: bool = True) -> str:
    if setting.default is not None and not setting.is_group:
        setting = replace(setting, default=f"`{setting.default}`")
    return f"#### `{setting.path}`\n\n*{facts(setting, in_fingerprint=in_fingerprint)}*\n\n{setting.meaning}"


def _anchor(heading: str) -> str:
    return heading.replace(".", "").lower()


def _is_input(metadata: Iterable[object]) -> bool:
    return any(isinstance(mark, InputOf | InputFiles) for mark in metadata)


def main() -> None:
    """Write all files, and remove pages of kinds that are gone."""
    files = reference_files()
    for path, text in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    for page in (ROOT / PAGES).glob("*.md"):
        if f"{PAGES}/{page.name}" not in files:
            page.unlink()
    print(f"{len(files)} files written")


if __name__ == "__main__":
    main()
