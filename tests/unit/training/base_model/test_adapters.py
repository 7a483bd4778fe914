"""Adapters as a start: the merged model is what PEFT computes, and an adapter of another base is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from cluster.contracts.model_needs import ModelNeeds
from cluster.contracts.reward_scale import REWARD_SCALE_FILE, RewardScale
from tests.chat_fixtures import make_chat_tokenizer, make_model_directory
from training.base_model.adapter_layers import BASE_RECORD, adapter_base, light_findings, weights_digest
from training.base_model.check import model_findings
from training.base_model.merge import merge_adapter
from training.inference.sequence_scores import rewards
from training.models import load_reward_model

SFT = ModelNeeds(chat_template=True, padding_token=True, max_length=128)
IDS = torch.arange(3, 43)[None]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "base")


def make_adapter(base: Path, directory: Path, *, seed: int = 1, **settings: Any) -> Path:
    """A LoRA adapter of `base` that has learned something, with a relative path to its base."""
    torch.manual_seed(seed)
    scores = settings.get("task_type") == "SEQ_CLS"
    auto_class = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    more = {"num_labels": 1, "pad_token_id": 3} if scores else {}
    model = get_peft_model(
        auto_class.from_pretrained(base, **more), LoraConfig(r=4, **{"task_type": "CAUSAL_LM", **settings})
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(directory)
    named(directory, f"../{base.name}")
    return directory


def named(adapter: Path, base: str) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))


def found(directory: Path, needs: ModelNeeds = SFT, role: Any = "policy") -> list[str]:
    return [str(f) for f in model_findings(str(directory), needs, role, scratch=directory.parent)]


def merged(adapter: Path, role: Any = "policy") -> Path:
    target = adapter.parent / f"{adapter.name}-merged"
    merge_adapter(str(adapter), role, target=target, scratch=adapter.parent)
    return target


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(IDS).logits)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "down_proj"]},
        {"target_modules": ["o_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["o_proj"], "use_dora": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_merged_model_computes_what_peft_does(tmp_path: Path, settings: dict[str, Any], tied: bool) -> None:
    base = make_model_directory(tmp_path / "base")
    if not tied:
        LlamaForCausalLM(LlamaConfig.from_pretrained(base, tie_word_embeddings=False)).save_pretrained(base)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    assert found(adapter) == []
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.01
    directory = merged(adapter)
    assert found(directory) == []  # a whole model, with the base's tokenizer and template
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(directory)), expected, atol=1e-5, rtol=1e-5)


def test_adapters_upon_an_adapter_are_merged_from_the_innermost(tmp_path: Path, base: Path) -> None:
    first = make_adapter(base, tmp_path / "first", target_modules="all-linear")
    inner = merged(first)
    second = make_adapter(inner, tmp_path / "second", seed=2, target_modules=["q_proj"])
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(inner), second))
    named(second, "../first")
    assert adapter_base(str(second)) == str(first)
    assert found(second) == []
    actual = logits(AutoModelForCausalLM.from_pretrained(merged(second)))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_a_reward_models_adapter_brings_its_head(tmp_path: Path, base: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", task_type="SEQ_CLS", target_modules=["q_proj"])
    assert "is a reward model's adapter; give a causal model's adapter" in found(adapter)[0]
    assert found(adapter, ModelNeeds(), "reward") == []
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=3)
    expected = logits(PeftModel.from_pretrained(model, adapter))
    actual = logits(AutoModelForSequenceClassification.from_pretrained(merged(adapter, "reward")))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_a_merged_reward_model_reads_scores_in_front_of_its_own_padding_and_keeps_its_scale(tmp_path: Path) -> None:
    base = make_model_directory(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))  # as many a base is shipped
    adapter = make_adapter(base, tmp_path / "adapter", task_type="SEQ_CLS", target_modules=["q_proj"])
    make_chat_tokenizer().save_pretrained(adapter)
    scale = RewardScale(0.5, 2.0, 10, applied=True)
    (adapter / REWARD_SCALE_FILE).write_bytes(scale.to_json())
    model = load_reward_model(merged(adapter, "reward"))
    assert model.config.pad_token_id == make_chat_tokenizer().pad_token_id
    assert model.reward_scale == scale
    rows = [list(range(5, 25)), list(range(30, 37))]
    alone = torch.cat([rewards(model, [row], pad_token_id=model.config.pad_token_id) for row in rows])
    together = rewards(model, rows, pad_token_id=model.config.pad_token_id)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_an_adapter_for_a_base_of_other_shapes_is_refused(tmp_path: Path, base: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    config = LlamaConfig.from_pretrained(base, hidden_size=32, intermediate_size=80, num_hidden_layers=1)
    other = Path(shutil.copytree(base, tmp_path / "other"))
    LlamaForCausalLM(config).save_pretrained(other)
    named(adapter, str(other))
    (sentence,) = found(adapter)
    assert sentence.startswith(f"was trained for another base than {other}: model.layers.0.")
    assert sentence.endswith("name the base that it was trained on")


def test_an_adapter_for_another_training_of_the_same_model_is_refused_where_the_base_is_recorded(
    tmp_path: Path, base: Path
) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    (adapter / BASE_RECORD).write_text(json.dumps({"weights": weights_digest(str(base))}))
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    named(adapter, str(moved))
    assert found(adapter) == []  # a copy is the same base
    model = AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight += 0.01
    model.save_pretrained(moved)
    assert f"was trained for another base than {moved}, whose weights are not those" in found(adapter)[0]


def test_what_is_wrong_with_an_adapter_is_seen_by_plan(tmp_path: Path, base: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    named(adapter, "some-hub/model-7B")
    (sentence,) = map(str, light_findings(str(adapter)))
    assert "is an adapter for some-hub/model-7B, and there is no such directory here; set base_model_name" in sentence
    named(adapter, "")
    assert "does not name its base" in str(light_findings(str(adapter))[0])
    named(adapter, ".")
    assert "stands on itself" in str(light_findings(str(adapter))[0])
    named(adapter, "../base")
    assert light_findings(str(adapter)) == []
    (base / "config.json").unlink()
    assert str(light_findings(str(adapter))[0]).startswith(f"its base {base} has no config.json")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"LORA"', '"IA3"'))
    assert len(light_findings(str(adapter))) == 3
    assert "is an adapter of type IA3, and only LORA is merged" in " ".join(found(adapter))
