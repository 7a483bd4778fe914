"""`raymill explain`: every setting of every kind has a meaning, and its name is whole at any width."""

from __future__ import annotations

import io
import re

import pytest
import yaml
from pydantic import BaseModel
from rich.console import Console

from cluster.contracts.config import StrictModel
from cluster.contracts.errors import SpecError
from cluster.explain import explain
from cluster.setting_texts import sections_of, settings_of
from cluster.spec import SpecHead
from cluster.stage_kinds import STAGE_KINDS
from serving.config import HttpLimits, ServerConfig

MODELS: dict[str, type[BaseModel]] = {"spec": SpecHead} | {name: kind.config for name, kind in STAGE_KINDS.items()}


def explained(target: str | None, *, width: int = 80, terminal: bool = False) -> str:
    sink = io.StringIO()
    explain(target, Console(file=sink, width=width, force_terminal=terminal, highlight=False))
    return sink.getvalue()


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_has_a_meaning_in_whole_sentences(name: str) -> None:
    for setting in settings_of(MODELS[name]):
        assert re.fullmatch(r"[A-Z`a-z].{15,}[.]", setting.meaning), setting.path
        assert "None" not in setting.meaning, f"{setting.path}: who writes YAML knows null"


@pytest.mark.parametrize("model", [ServerConfig, HttpLimits])
def test_every_setting_of_the_servers_has_a_meaning(model: type[StrictModel]) -> None:
    assert [name for name, info in model.model_fields.items() if not info.description] == []


@pytest.mark.parametrize("name", MODELS)
def test_what_null_means_is_said_where_null_is_the_default(name: str) -> None:
    for setting in settings_of(MODELS[name]):
        if setting.default == "null" and setting.path not in {"steps", "train_tokens"}:
            assert "`null`" in setting.meaning, setting.path


@pytest.mark.parametrize("name", STAGE_KINDS)
def test_every_setting_stands_in_exactly_one_section(name: str) -> None:
    sections = STAGE_KINDS[name].config.sections
    listed = [setting for names in sections.values() for setting in names]
    assert sorted(listed) == sorted(set(STAGE_KINDS[name].config.model_fields) - {"kind"})


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("name", MODELS)
def test_every_name_stands_whole_on_a_line_of_its_own(name: str, width: int) -> None:
    lines = explained(name, width=width).splitlines()
    for setting in settings_of(MODELS[name]):
        assert setting.path in lines


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("name", MODELS)
def test_text_is_wrapped_to_the_width(name: str, width: int) -> None:
    text = explained(name, width=width).partition("EXAMPLE")[0]
    # A single word that is too long (a name, a list without blanks) is the only thing that may stand out.
    assert [line for line in text.splitlines() if len(line) > width and " " in line.strip()] == []


def test_piped_output_has_no_colour_codes_and_a_terminal_has() -> None:
    assert "\x1b" not in explained("pretrain")
    assert "\x1b" in explained("pretrain", terminal=True)


def test_one_setting_is_shown_with_all_its_bounds_and_a_line_of_yaml() -> None:
    shown = explained("clean.minhash.num_hashes")
    assert "integer from 1 to 1024" in shown
    assert yaml.safe_load(shown.partition("EXAMPLE")[2]) == {"stages": {"clean": {"minhash": {"num_hashes": 160}}}}


def test_a_group_is_shown_with_the_settings_in_it_and_no_others() -> None:
    lines = explained("clean.gopher_repetition").splitlines()
    assert "gopher_repetition.max_duplicate_paragraph_char_fraction" in lines
    assert not any(line.startswith(("gopher_quality", "inputs")) for line in lines)


def test_a_setting_says_whether_it_changes_results() -> None:
    assert "Does not change results." in explained("pretrain.workers.num_workers")
    assert "Does not change results." not in explained("pretrain.lr")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("pretrian", "did you mean 'pretrain'"),
        ("lr", "pretrain.lr"),
        ("pretrain.warmup_step", "did you mean 'warmup_steps'"),
        ("clean.max_word_length", "did you mean 'c4.max_word_length'"),
        ("spec.storag", "did you mean 'storage'"),
    ],
)
def test_a_misspelt_name_is_told_what_may_have_been_meant(target: str, expected: str) -> None:
    with pytest.raises(SpecError, match=re.escape(expected)):
        explained(target)


@pytest.mark.parametrize("name", MODELS)
def test_the_example_of_every_setting_is_yaml_that_leads_to_it(name: str) -> None:
    for setting in settings_of(MODELS[name]):
        if ".NAME." in setting.path:
            continue
        values = yaml.safe_load(explained(f"{name}.{setting.path}").rpartition("EXAMPLE")[2])
        for key in [*([] if name == "spec" else ["stages", name]), *setting.path.split(".")]:
            values = values[key]


@pytest.mark.parametrize("name", STAGE_KINDS)
def test_every_worked_example_is_a_spec_of_valid_stages(name: str) -> None:
    stages = yaml.safe_load(STAGE_KINDS[name].example)["stages"]
    assert name in stages
    for stage, values in stages.items():
        STAGE_KINDS[values.get("kind", stage)].config.model_validate(values)


def test_sections_keep_nested_settings_behind_the_group_that_holds_them() -> None:
    engine = dict(sections_of(STAGE_KINDS["pretrain"].config))["When a step goes wrong"]
    assert [setting.path for setting in engine][:2] == ["divergence", "divergence.not_finite"]
