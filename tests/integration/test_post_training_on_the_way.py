"""What happens while a stage trains: measurements, the best model, an early end, trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from cluster.contracts.artifacts import StageResult
from cluster.contracts.errors import InputError
from cluster.contracts.progress import Progress, SilentProgress
from tests.chat_fixtures import make_conversations, make_model_directory, write_conversations
from tests.integration.single_rank import one_rank
from tests.integration.test_post_training import SHARED, artifact, context
from training.launch.workers import run_in_process
from training.metrics.metrics_log import METRICS, read_metrics
from training.metrics.trackers import TENSORBOARD_DIRECTORY
from training.post_training import dpo, kto, reward_model, sft, trl_stage
from training.post_training.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.preferences import stage as preferences
from training.preferences.config import PreferencesConfig

assert one_rank  # the fixture of that name, for this module too

# So high a rate that the held-out loss falls, and then rises.
OVERFITTING = {"lr": 0.03, "lr_schedule": "constant", "warmup_fraction": 0.0, "epochs": 6.0, "eval_every_steps": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("on_the_way")
    make_model_directory(root / "base")
    conversations = make_conversations(root / "conversations", [write_conversations(root / "rows.jsonl", 20)])
    config = PreferencesConfig(conversations="conversations", disturbed_per_answer=1)
    preferences.run(config, {"conversations": conversations}, str(root / "pairs"), context(root, "preferences"))
    return root


def tune(root: Path, name: str, progress: Progress | None = None, **changes: Any) -> StageResult:
    config = SftConfig(model="base", conversations="conversations", **{**SHARED, **OVERFITTING, **changes})
    inputs = {"model": artifact(root, "base", "pretrain"), "conversations": artifact(root, "conversations", "c")}
    return sft.run(config, inputs, str(root / name), context(root, "sft", progress), launch=run_in_process)


def measured(root: Path, name: str) -> dict[int, float]:
    return {row["step"]: row["heldout_loss"] for row in read_metrics(root / name / METRICS) if "heldout_loss" in row}


class Interrupted(SilentProgress):
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        if done == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_the_best_model_is_exported_also_after_a_resume(zero_stage: int, root: Path) -> None:
    name = f"best{zero_stage}"
    result = tune(root, name, keep_best=True, zero_stage=zero_stage)
    steps = result.metrics["steps"]
    losses = measured(root, name)
    assert list(losses) == list(range(2, steps + 1, 2))
    best = min(losses, key=lambda step: losses[step])
    assert (result.metrics["best_step"], result.metrics["best_heldout_loss"]) == (best, losses[best])
    assert best < steps, "the rate of this test no longer overfits"
    assert [row["step"] for row in read_metrics(root / name / METRICS)] == list(range(1, steps + 1))
    # TRL measures a batch at a time, and we all answer tokens together.
    assert result.metrics["heldout_answer_loss"] == pytest.approx(losses[best], rel=0.05)
    assert not (root / name / "checkpoints").exists()
    resumed = f"{name}_resumed"
    with pytest.raises(KeyboardInterrupt):
        tune(root, resumed, Interrupted(steps - 1), keep_best=True, zero_stage=zero_stage)
    tune(root, resumed, keep_best=True, zero_stage=zero_stage)
    assert measured(root, resumed) == pytest.approx(losses, abs=1e-5)
    weights, expected = (load_file(root / run / "model.safetensors") for run in (resumed, name))
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, atol=1e-5, rtol=0)


def test_training_ends_where_the_held_out_loss_no_longer_falls(root: Path) -> None:
    result = tune(root, "stopped", early_stopping_patience=2, keep_best=True)
    losses = measured(root, "stopped")
    best = min(losses, key=lambda step: losses[step])
    assert list(losses)[-1] == result.metrics["steps"] == best + 4
    assert len(read_metrics(root / "stopped" / METRICS)) == best + 4


def test_a_run_that_had_ended_early_trains_no_further_after_a_resume(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"early_stopping_patience": 2, "checkpoint_every_steps": 2}
    expected = tune(root, "ended", **settings)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trl_stage, "export_trained", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(root, "ended_again", **settings)
    resumed = tune(root, "ended_again", **settings)
    assert resumed.metrics["steps"] == expected.metrics["steps"]
    weights, others = (load_file(root / name / "model.safetensors") for name in ("ended_again", "ended"))
    for key, value in others.items():
        torch.testing.assert_close(weights[key], value, atol=1e-5, rtol=0)


def test_no_rank_copies_the_rows_that_it_maps(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(*_: Any, **__: Any) -> None:
        raise AssertionError("the rows are copied")

    monkeypatch.setattr(Dataset, "map", copied)
    monkeypatch.setattr(Dataset, "filter", copied)
    tune(root, "mapped", epochs=2.0)


def test_trackers_get_what_the_log_has(root: Path) -> None:
    tune(root, "tracked", epochs=1.0)
    assert list((root / "tracked" / TENSORBOARD_DIRECTORY).iterdir())


def test_measuring_on_the_way_changes_no_step(root: Path) -> None:
    tune(root, "unmeasured", epochs=2.0, eval_every_steps=None)
    tune(root, "measured", epochs=2.0)
    plain, other = ([row["loss"] for row in read_metrics(root / name / METRICS)] for name in ("unmeasured", "measured"))
    assert plain == other


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_the_other_stages_measure_too(zero_stage: int, root: Path) -> None:
    inputs = {"model": artifact(root, "base", "sft"), "preferences": artifact(root, "pairs", "preferences")}
    settings = {**SHARED, "eval_every_steps": 1, "keep_best": True, "zero_stage": zero_stage}
    for name, module, config_class in (
        ("rm", reward_model, RewardModelConfig),
        ("dpo", dpo, DpoConfig),
        ("kto", kto, KtoConfig),
    ):
        config = config_class(model="sft", preferences="pairs", **settings)
        output = f"{name}{zero_stage}"
        result = module.run(config, inputs, str(root / output), context(root, name), launch=run_in_process)
        losses = measured(root, output)
        assert list(losses) == list(range(1, result.metrics["steps"] + 1))
        assert result.metrics["best_heldout_loss"] == min(losses.values())


def test_nothing_held_out_is_told(root: Path) -> None:
    make_conversations(root / "all", [root / "rows.jsonl"], heldout_fraction=0.0)
    config = SftConfig(model="base", conversations="all", **{**SHARED, **OVERFITTING})
    inputs = {"model": artifact(root, "base", "pretrain"), "conversations": artifact(root, "all", "conversations")}
    with pytest.raises(InputError, match="nothing is held out to measure"):
        sft.run(config, inputs, str(root / "none"), context(root, "sft"), launch=run_in_process)
