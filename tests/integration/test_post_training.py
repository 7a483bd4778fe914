"""SFT, reward model, DPO and evaluation through their real shells: TRL and DeepSpeed in Ray Train workers."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cluster import evaluate_stage
from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult
from cluster.contracts.errors import StageFailed
from cluster.contracts.progress import Progress, SilentProgress
from tests.chat_fixtures import make_conversations, make_model_directory, write_conversations
from tests.integration.single_rank import one_rank
from tests.integration.token_fixtures import make_tokens
from training.evaluate.config import EvaluateConfig
from training.launch.workers import run_in_process
from training.metrics.metrics_log import METRICS, read_metrics
from training.post_training import dpo, kto, reward_model, sft
from training.post_training.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.preferences import stage as preferences
from training.preferences.config import PreferencesConfig

assert one_rank  # the fixture of that name, for this module too

TWO_WORKERS = {"num_workers": 2, "cpus": 0.5, "max_failures": 1}
SHARED: dict[str, Any] = {"lr": 3e-3, "max_length": 128, "global_batch_size": 8, "checkpoint_every_steps": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("post_training")
    make_model_directory(root / "base")
    write_conversations(root / "rows.jsonl", 96)
    with open(root / "rows.jsonl", "a") as rows:
        rows.write("{broken\n")
    make_conversations(root / "talks", [root / "rows.jsonl"])
    return root


def artifact(root: Path, name: str, kind: str) -> Artifact:
    return Artifact(str(root / name), Manifest(kind, name, {}, {}))


def context(root: Path, name: str, progress: Progress | None = None) -> StageContext:
    return StageContext(name, progress or SilentProgress(), root / "scratch", root / "logs", seed=7)


def sft_config(root: Path, **changes: Any) -> SftConfig:
    settings: dict[str, Any] = {
        **SHARED,
        "model": "base",
        "conversations": "talks",
        "epochs": 1.5,
        "micro_batch_size": 2,
        "zero_stage": 1,
        "workers": TWO_WORKERS,
    }
    return SftConfig(**{**settings, **changes})


def sft_inputs(root: Path) -> dict[str, Artifact]:
    return {
        "model": artifact(root, "base", "pretrain"),
        "conversations": artifact(root, "talks", "conversations"),
    }


@dataclass(frozen=True)
class KillRankZero(SilentProgress):
    """Kills the process of rank 0 with SIGKILL at a step, once."""

    step: int
    mark: Path

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        if done == self.step and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def tuned(local_ray: None, root: Path) -> StageResult:
    """SFT on two workers under ZeRO-1, of which one is killed between two checkpoints."""
    progress = KillRankZero(step=7, mark=root / "killed")
    inputs = sft_inputs(root)
    result = sft.run(sft_config(root), inputs, str(root / "sft"), context(root, "sft", progress))
    assert progress.mark.exists()
    return result


@pytest.fixture(scope="module")
def pairs(root: Path) -> StageResult:
    config = PreferencesConfig(conversations="talks", disturbed_per_answer=2)
    return preferences.run(
        config,
        {"conversations": artifact(root, "talks", "conversations")},
        str(root / "pairs"),
        context(root, "preferences"),
    )


def pair_inputs(root: Path) -> dict[str, Artifact]:
    return {"model": artifact(root, "sft", "sft"), "preferences": artifact(root, "pairs", "preferences")}


def test_sft_with_a_killed_worker_takes_every_step_once(tuned: StageResult, root: Path) -> None:
    assert tuned.engine == {"class": "DeepSpeedEngine", "zero_stage": 1, "world_size": 2}
    steps = [row["step"] for row in read_metrics(root / "sft" / METRICS)]
    assert steps == list(range(1, -(-int(tuned.metrics["num_train_conversations"] * 1.5) // 8) + 1))
    assert tuned.metrics["steps"] == steps[-1]
    assert not (root / "sft" / "checkpoints").exists()


def test_sft_learns_the_answers_and_exports_a_loadable_model(tuned: StageResult, root: Path) -> None:
    assert tuned.metrics["heldout_answer_loss"] < tuned.metrics["base_heldout_answer_loss"] - 0.5
    model = AutoModelForCausalLM.from_pretrained(root / "sft")
    tokenizer = AutoTokenizer.from_pretrained(root / "sft")
    assert len(tokenizer) == model.config.vocab_size
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert model.generation_config.eos_token_id == model.config.eos_token_id == ends
    assert tokenizer.eos_token == "<|im_end|>"  # the base's is its end of text
    assert {f.name: f.size for f in tuned.files} == {
        f.name: f.stat().st_size for f in (root / "sft").iterdir() if f.is_file()
    }


def test_one_process_with_other_micro_batches_comes_to_the_same_model(tuned: StageResult, root: Path) -> None:
    """Same rows in the same order: world size, micro-batch and the resume change rounding only."""
    config = sft_config(root, micro_batch_size=4, zero_stage=2, workers={"num_workers": 1})
    inputs = sft_inputs(root)
    alone = sft.run(config, inputs, str(root / "alone"), context(root, "sft"), launch=run_in_process)
    assert alone.engine == {"class": "DeepSpeedEngine", "zero_stage": 2, "world_size": 1}
    assert alone.metrics["heldout_answer_loss"] == pytest.approx(tuned.metrics["heldout_answer_loss"], abs=0.02)
    expected = [row["loss"] for row in read_metrics(root / "alone" / METRICS)]
    assert [row["loss"] for row in read_metrics(root / "sft" / METRICS)] == pytest.approx(expected, abs=0.02)


def test_lora_adapters_are_merged_into_the_exported_model(root: Path) -> None:
    config = sft_config(root, lora={"rank": 4}, epochs=0.5, workers={"num_workers": 1})
    inputs = sft_inputs(root)
    result = sft.run(config, inputs, str(root / "lora"), context(root, "sft"), launch=run_in_process)
    base, merged = (AutoModelForCausalLM.from_pretrained(root / name).state_dict() for name in ("base", "lora"))
    assert base.keys() == merged.keys()
    assert not torch.equal(
        base["model.layers.0.self_attn.q_proj.weight"], merged["model.layers.0.self_attn.q_proj.weight"]
    )
    assert torch.equal(base["model.embed_tokens.weight"], merged["model.embed_tokens.weight"])
    assert not any("lora" in file.name or "adapter" in file.name for file in result.files)


@pytest.mark.usefixtures("tuned", "pairs")
def test_reward_model_under_zero_3_is_a_loadable_classifier(root: Path) -> None:
    """From a model whose padding token ends answers, as SmolLM2's does; another one pads then."""
    shutil.copytree(root / "sft", root / "padded", dirs_exist_ok=True)
    tokenizer_config = root / "padded" / "tokenizer_config.json"
    tokenizer_config.write_text(tokenizer_config.read_text().replace("<|pad|>", "<|im_end|>"))
    assert AutoTokenizer.from_pretrained(root / "padded").pad_token == "<|im_end|>"
    config = RewardModelConfig(
        **SHARED,
        model="sft",
        preferences="pairs",
        epochs=0.5,
        compare="every_token",
        zero_stage=3,
    )
    result = reward_model.run(
        config,
        {**pair_inputs(root), "model": artifact(root, "padded", "sft")},
        str(root / "rm"),
        context(root, "reward_model"),
        launch=run_in_process,
    )
    assert result.engine == {"class": "DeepSpeedEngine", "zero_stage": 3, "world_size": 1}
    assert result.metrics["length_baseline_accuracy"] == 0.5
    assert result.metrics["bag_of_words_baseline_accuracy"] == 0.5
    assert 0 <= result.metrics["heldout_pair_accuracy"] <= 1
    model = AutoModelForSequenceClassification.from_pretrained(root / "rm")
    assert (model.config.num_labels, model.config.pad_token_id) == (1, 3)
    assert AutoTokenizer.from_pretrained(root / "rm").pad_token_id == 3
    assert len(read_metrics(root / "rm" / METRICS)) == result.metrics["steps"]


@pytest.mark.usefixtures("tuned", "pairs")
def test_dpo_under_zero_2_raises_the_chosen_over_the_rejected(root: Path) -> None:
    config = DpoConfig(**{**SHARED, "lr": 1e-3}, model="sft", preferences="pairs", epochs=0.5, zero_stage=2)
    result = dpo.run(config, pair_inputs(root), str(root / "dpo"), context(root, "dpo"), launch=run_in_process)
    assert result.engine == {"class": "DeepSpeedEngine", "zero_stage": 2, "world_size": 1}
    assert result.metrics["heldout_preference_accuracy"] > 0.5
    assert result.metrics["heldout_reward_margin"] > 0
    AutoModelForCausalLM.from_pretrained(root / "dpo")


@pytest.mark.usefixtures("tuned", "pairs")
def test_evaluation_measures_every_model_on_the_same_things(root: Path) -> None:
    make_tokens(root / "tokens")
    config = EvaluateConfig(
        tokens="tokens",
        conversations="talks",
        models={"base": "base", "sft": "sft"},
        preferences="pairs",
        max_new_tokens=6,
        num_samples=2,
        sequence_length=64,
    )
    inputs = {
        "tokens": artifact(root, "tokens", "tokenize"),
        "conversations": artifact(root, "talks", "conversations"),
        "models.base": artifact(root, "base", "pretrain"),
        "models.sft": artifact(root, "sft", "sft"),
        "preferences": artifact(root, "pairs", "preferences"),
    }
    result = evaluate_stage.run(config, inputs, str(root / "eval"), context(root, "evaluate"), launch=run_in_process)
    base, tuned = result.metrics["models"]["base"], result.metrics["models"]["sft"]
    assert base.keys() == tuned.keys()
    assert tuned["heldout_answer_loss"] < base["heldout_answer_loss"]
    assert [set(sample["answers"]) for sample in result.metrics["samples"]] == [{"base", "sft"}] * 2
    again = evaluate_stage.run(config, inputs, str(root / "again"), context(root, "evaluate"), launch=run_in_process)
    assert again.metrics == result.metrics


def test_ddp_in_place_of_deepspeed_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    inputs = sft_inputs(root)
    config = sft_config(root, workers={"num_workers": 1})
    with pytest.raises(StageFailed, match=r"DeepSpeed on 1 was asked for; unset ACCELERATE_USE_CPU"):
        sft.run(config, inputs, str(root / "ddp"), context(root, "sft"), launch=run_in_process)


@pytest.mark.usefixtures("tuned", "pairs")
def test_kto_tells_wanted_from_unwanted_answers(root: Path) -> None:
    settings = {**SHARED, "lr": 1e-3, "zero_stage": 2, "micro_batch_size": 4}
    config = KtoConfig(**settings, model="sft", preferences="pairs", epochs=0.5)
    result = kto.run(config, pair_inputs(root), str(root / "kto"), context(root, "kto"), launch=run_in_process)
    assert result.metrics["heldout_label_auc"] > 0.6
    assert result.metrics["heldout_wanted_reward"] > result.metrics["heldout_unwanted_reward"]
    rows = read_metrics(root / "kto" / METRICS)
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # a policy that is its reference
    AutoModelForCausalLM.from_pretrained(root / "kto")
