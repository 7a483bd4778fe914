"""A model's card tells its lineage from the run's record, and nothing that a user wrote becomes markup in it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from cluster.card_lineage import ancestors, card_license, write_card
from cluster.contracts.artifacts import StageResult
from cluster.contracts.commit import WrittenFile
from cluster.model_card import BaseModel, CardStage, card_stage, model_card
from cluster.plan import PlannedStage, make_plan
from cluster.spec import JobSpec, load_spec
from cluster.stage_kinds import STAGE_KINDS
from tests.chat_fixtures import make_model_directory, write_conversations
from training.post_training.config import SftConfig

SPEC = """
name: aligned
storage: store
stages:
  conversations: {inputs: [talks.jsonl], heldout_fraction: 0.3}
  sft: {model: ./base, conversations: conversations, lr: 1e-4, lora: {rank: 4}}
  preferences: {conversations: conversations}
  dpo: {model: sft, preferences: preferences, beta: 0.2}
"""


def load(directory: Path, text: str = SPEC) -> tuple[JobSpec, dict[str, PlannedStage]]:
    (directory / "spec.yaml").write_text(text)
    spec = load_spec(directory / "spec.yaml")
    return spec, {stage.name: stage for stage in make_plan(spec)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_model_directory(tmp_path / "base")
    write_conversations(tmp_path / "talks.jsonl", 4)
    return tmp_path


def written(stage: PlannedStage, spec: JobSpec, **metrics: Any) -> str:
    plan = make_plan(spec)
    Path(stage.uri).mkdir(parents=True, exist_ok=True)
    file = write_card(stage, plan, spec, StageResult(metrics, [WrittenFile("model.safetensors", 1, "0")]))
    assert file is not None
    assert file.name == "README.md"
    content = (Path(stage.uri) / "README.md").read_bytes()
    assert file.size == len(content)
    return content.decode()


def head(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n")))


def test_a_card_tells_data_settings_figures_and_lineage(directory: Path) -> None:
    spec, stages = load(directory)
    card = written(stages["dpo"], spec, heldout_preference_accuracy=0.71, steps=40, curve=[1, 2])
    assert head(card) == {
        "license": "other",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["raymill", "dpo"],
        "base_model": ["base"],
    }
    assert "| `heldout_preference_accuracy` | 0.71 |" in card
    assert "curve" not in card
    assert "beta: 0.2" in card
    assert "\nlr: 2.0e-05\n" in card  # dpo's own settings stand whole, with their defaults
    assert "lr: 0.0001" not in card  # sft has a card of its own
    assert "heldout_fraction: 0.3" in card
    assert "talks.jsonl" in card
    order = [card.index(f"| `{name}` | ") for name in ("conversations", "sft", "preferences", "dpo")]
    assert order == sorted(order)
    assert all(stages[name].fingerprint in card for name in stages)
    assert str(directory) not in card  # no path of this machine


def test_the_same_stage_writes_the_same_card_again(directory: Path) -> None:
    spec, stages = load(directory)
    assert written(stages["sft"], spec, steps=1) == written(stages["sft"], spec, steps=1)


def test_only_models_have_cards(directory: Path) -> None:
    spec, stages = load(directory)
    plan = list(stages.values())
    assert write_card(stages["preferences"], plan, spec, StageResult({}, [])) is None
    assert ancestors(stages["dpo"], stages) == ["conversations", "sft", "preferences"]


def test_the_licence_is_the_specs_or_else_the_bases(directory: Path) -> None:
    spec, stages = load(directory)
    (directory / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base")
    card = written(stages["dpo"], spec)  # by way of sft
    assert head(card)["license"] == "apache-2.0"
    assert "which is the base's" in card
    spec, stages = load(directory, SPEC.replace("name: aligned", "name: aligned\nlicense: mit"))
    card = written(stages["dpo"], spec)
    assert head(card)["license"] == "mit"
    assert "Base: `base`, licence apache\\-2\\.0" in card


@pytest.mark.parametrize("text", ["", "---\n", "---\nlicense: [a]\n---", "---\n{{\n---", "# no head"])
def test_a_base_whose_card_names_no_licence_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert card_license(str(tmp_path)) is None
    assert card_license(str(tmp_path / "absent")) is None


EVIL = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://x/y.png)",
    "a | b\n\n# heading\n---\nlicense: mit",
    "`` ` code ```\n<img src=x onerror=alert(1)>",
    "**bold** __b__ ~~s~~ <http://auto.link> &lt;b&gt;",
    "```\n# out of the fence\n<b>\n```",
]


@pytest.mark.parametrize("text", EVIL)
def test_what_a_user_wrote_is_shown_and_never_markup(text: str) -> None:
    kind = STAGE_KINDS["sft"]
    config = SftConfig.model_validate({"model": "./b", "conversations": "c", "lora": {"target_modules": [text]}})
    stage = card_stage(text, kind, config, fingerprint="0" * 16, inputs={"model": text}, metrics={text: text})
    data = CardStage(
        text, STAGE_KINDS["conversations"], "1" * 16, {text: text}, {"inputs": [text]}, {}, {"num_" + text: 1}
    )
    card = model_card(text, stage, [data], licence=text, bases=[BaseModel(text, text)])
    assert head(card)["license"] == " ".join(text.split())
    assert set(head(card)) == {"license", "library_name", "pipeline_tag", "tags", "base_model"}
    body = card.split("\n---\n", 1)[1]
    tokens = list(_all_tokens(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body)))
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "strong_open", "em_open", "s_open", "hr"}
    headings = [token.tag for token in tokens if token.type == "heading_open"]
    assert headings == ["h1", "h2", "h2", "h2", "h3", "h2"]
    assert sum(token.type == "fence" for token in tokens) == 2
    rows = re.findall(r"^\|.*\|$", body, re.MULTILINE)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 5}


def _all_tokens(tokens: Any) -> Any:
    for token in tokens:
        yield token
        yield from _all_tokens(token.children or [])
