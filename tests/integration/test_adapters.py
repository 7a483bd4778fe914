"""What is exported of a run with adapters is what was trained: every kind of target, tied and untied, ZeRO 0 to 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from cluster.contracts.artifacts import StageResult
from cluster.contracts.errors import InputError, StageFailed
from tests.chat_fixtures import make_conversations, make_model_directory, write_conversations
from tests.integration.single_rank import one_rank
from tests.integration.test_post_training import artifact, context
from training.base_model.adapter_layers import BASE_RECORD, light_findings, weights_digest
from training.export import committed_result
from training.launch.workers import run_in_process
from training.post_training import adapters, dpo, reward_model, sft, trl_export
from training.post_training.config import DpoConfig, RewardModelConfig, SftConfig
from training.preferences import stage as preferences
from training.preferences.config import PreferencesConfig

assert one_rank  # the fixture of that name, for this module too

TARGETS: dict[str, dict[str, Any]] = {
    "all_linear": {},
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "mlp_and_norms": {"target_modules": ["gate_proj", "up_proj", "down_proj"], "modules_to_save": ["norm"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole_head": {"modules_to_save": ["lm_head"]},
    "whole_embeddings": {"modules_to_save": ["embed_tokens"]},
    "both_whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    make_model_directory(root / "tied")
    untied = AutoConfig.from_pretrained(root / "tied", tie_word_embeddings=False)
    make_model_directory(root / "untied")
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(untied).save_pretrained(root / "untied")
    conversations = make_conversations(root / "conversations", [write_conversations(root / "rows.jsonl", 20)])
    config = PreferencesConfig(conversations="conversations", disturbed_per_answer=1)
    preferences.run(config, {"conversations": conversations}, str(root / "pairs"), context(root, "preferences"))
    return root


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, list[list[int]]]]:
    """(logits of the trained model, rows) of each export, as the stage has them."""
    seen: list[tuple[torch.Tensor, list[list[int]]]] = []

    def compare(exported: Any, trained_logits: torch.Tensor, rows: list[list[int]], **keywords: Any) -> None:
        seen.append((trained_logits, rows))
        adapters.compare_logits(exported, trained_logits, rows, **keywords)

    monkeypatch.setattr(trl_export, "compare_logits", compare)
    return seen


def settings(lora: dict[str, Any], zero_stage: int) -> dict[str, Any]:
    return {
        "lora": {"rank": 4, **lora},
        "zero_stage": zero_stage,
        "global_batch_size": 8,
        "lr": 0.05,
        "lr_schedule": "constant",
        "warmup_fraction": 0.0,
        "max_length": 128,
    }


def tune(root: Path, base: str, output: str, lora: dict[str, Any], zero_stage: int = 0, **more: Any) -> StageResult:
    config = SftConfig(model="base", conversations="conversations", **settings(lora, zero_stage), **more)
    inputs = {"model": artifact(root, base, "pretrain"), "conversations": artifact(root, "conversations", "c")}
    return sft.run(config, inputs, str(root / output), context(root, "sft"), launch=run_in_process)


def logits_of(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """One row at a time, with no padding."""
    with torch.no_grad():
        return torch.cat([model.eval()(input_ids=torch.tensor([row])).logits[0] for row in rows])


def check_target(root: Path, target: str, base: str, zero_stage: int, compared: list[Any]) -> None:
    name = f"{target}_{base}_{zero_stage}"
    result = tune(root, base, name, TARGETS[target], zero_stage)
    trained_logits, rows = compared[-1]
    exported = AutoModelForCausalLM.from_pretrained(root / name)
    assert float((logits_of(exported, rows) - trained_logits).abs().max()) < 1e-5
    original = logits_of(AutoModelForCausalLM.from_pretrained(root / base), rows)
    assert float((original - trained_logits).abs().max()) > 0.1
    assert result.engine["zero_stage"] == zero_stage


@pytest.mark.parametrize("target", ["all_linear", "embeddings", "both_whole"])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_the_exported_model_has_the_trained_one_s_logits(
    target: str, zero_stage: int, root: Path, compared: list[Any]
) -> None:
    check_target(root, target, "tied", zero_stage, compared)


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_so_it_has_for_every_target(target: str, base: str, zero_stage: int, root: Path, compared: list[Any]) -> None:
    check_target(root, target, base, zero_stage, compared)


def test_adapters_alone_name_their_base_and_give_the_trained_logits(root: Path, compared: list[Any]) -> None:
    result = tune(root, "tied", "alone", {"merge": False})
    trained_logits, rows = compared[-1]
    directory = root / "alone"
    assert not (directory / "model.safetensors").exists()
    base = json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == "../tied"
    assert json.loads((directory / BASE_RECORD).read_text())["weights"] == weights_digest(str(root / "tied"))
    assert not light_findings(str(directory))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(directory / base), directory)
    assert float((logits_of(model, rows) - trained_logits).abs().max()) < 1e-5
    merged = tune(root, "tied", "merged", {})
    assert result.metrics["heldout_answer_loss"] == pytest.approx(merged.metrics["heldout_answer_loss"], abs=1e-6)


def test_an_export_that_differs_is_not_committed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As adapters on tied embeddings would, were they not untied."""
    monkeypatch.setattr(sft, "untied_config", lambda directory, lora: None)
    with pytest.raises(StageFailed, match=r"the exported model is not the trained one: their logits differ by"):
        tune(root, "tied", "differs", TARGETS["embeddings"])
    assert committed_result(str(root / "differs")) is None
    assert not (root / "differs" / "model.safetensors").exists()


def test_an_adapter_on_an_output_layer_is_refused_by_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=400, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = AutoModelForCausalLM.from_config(config)
    make_model_directory(root / "neox")
    model.save_pretrained(root / "neox")
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    monkeypatch.setattr(SftConfig, "conflicts", lambda self: iter(()))  # which knows the usual name alone
    with pytest.raises(InputError, match=rf"holds {head}, the output layer"):
        tune(root, "neox", "neox_tuned", {"target_modules": [head, "query_key_value"]})


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_reward_model_and_dpo_export_what_their_adapters_learned(
    zero_stage: int, root: Path, compared: list[Any]
) -> None:
    inputs = {"model": artifact(root, "tied", "sft"), "preferences": artifact(root, "pairs", "preferences")}
    shared = settings({"target_modules": ["embed_tokens", "q_proj"]}, zero_stage)
    scoring = RewardModelConfig(model="sft", preferences="pairs", **shared)
    output = root / f"reward{zero_stage}"
    reward_model.run(scoring, inputs, str(output), context(root, "rm"), launch=run_in_process)
    trained, rows = compared[-1]
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert float((logits_of(model, rows) - trained[:, 0]).abs().max()) < 1e-5
    aligning = DpoConfig(model="sft", preferences="pairs", **shared)
    output = root / f"dpo{zero_stage}"
    dpo.run(aligning, inputs, str(output), context(root, "dpo"), launch=run_in_process)
    trained, rows = compared[-1]
    assert float((logits_of(AutoModelForCausalLM.from_pretrained(output), rows) - trained).abs().max()) < 1e-5


@pytest.fixture(scope="module")
def in_bf16(root: Path) -> str:
    """Name of a copy of the tied base in bf16."""
    directory = root / "in_bf16"
    AutoModelForCausalLM.from_pretrained(root / "tied").to(torch.bfloat16).save_pretrained(directory)
    for pattern in ("token*", "*.jinja"):
        for file in (root / "tied").glob(pattern):
            (directory / file.name).write_bytes(file.read_bytes())
    return directory.name


@pytest.mark.parametrize(
    ("asked", "found"), [("base", torch.bfloat16), ("fp32", torch.float32), ("auto", torch.bfloat16)]
)
def test_the_export_has_the_number_format_of_its_base_or_the_one_asked_for(
    asked: str, found: torch.dtype, root: Path, in_bf16: str
) -> None:
    tune(root, in_bf16, f"exported_{asked}", {}, export_dtype=asked)
    config = AutoConfig.from_pretrained(root / f"exported_{asked}")
    model = AutoModelForCausalLM.from_pretrained(root / f"exported_{asked}", dtype="auto")
    assert config.dtype == model.dtype == found


@pytest.mark.parametrize("lora", [{}, None], ids=["adapters", "all weights"])
def test_what_was_learned_is_not_rounded_away_unless_it_is_asked_for(
    lora: dict[str, Any] | None, root: Path, in_bf16: str
) -> None:
    losses, shares = {}, {}
    for asked in ("fp32", "auto", "base"):
        changes = {"export_dtype": asked, "lr": 1e-5 if lora is not None else 1e-6, "epochs": 2.0}
        config = SftConfig.model_validate(
            {"model": "base", "conversations": "conversations", **settings(lora or {}, 0), **changes}
            | ({"lora": None} if lora is None else {})
        )
        inputs = {"model": artifact(root, in_bf16, "pretrain"), "conversations": artifact(root, "conversations", "c")}
        output = root / f"rounded_{asked}_{lora is None}"
        metrics = sft.run(config, inputs, str(output), context(root, "sft"), launch=run_in_process).metrics
        losses[asked], shares[asked] = metrics["heldout_answer_loss"], metrics.get("rounding_share")
        assert AutoConfig.from_pretrained(output).dtype == {"base": torch.bfloat16}.get(asked, torch.float32)
    assert losses["auto"] == pytest.approx(losses["fp32"], abs=1e-6)
    assert shares["auto"] is None
    assert shares["base"] > 0.5
