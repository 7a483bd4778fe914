"""Post-training when something goes wrong: losses that are no numbers, bad weights, another number of workers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from trl import SFTTrainer

from cluster.contracts.artifacts import Artifact, StageResult
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.progress import Progress, SilentProgress
from tests.chat_fixtures import make_conversations, make_model_directory, write_conversations
from tests.integration.single_rank import one_rank
from tests.integration.test_post_training import SHARED, artifact, context
from training.conversations.artifact import read_conversations
from training.export import committed_result
from training.launch.workers import run_in_process
from training.metrics.metrics_log import METRICS, read_metrics
from training.post_training import sft
from training.post_training.config import SftConfig

assert one_rank  # the fixture of that name, for this module too

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trouble")
    make_model_directory(root / "base")
    make_conversations(root / "conversations", [write_conversations(root / "rows.jsonl", 96)])
    return root


def epochs_of(root: Path, rows: int) -> float:
    """So many epochs that `rows` rows are trained."""
    return (rows + 0.5) / len(read_conversations(str(root / "conversations"), "train"))


def alone(**changes: Any) -> SftConfig:
    """One worker; some 10 steps."""
    settings = {**SHARED, "conversations": "conversations", "model": "base", "micro_batch_size": 4}
    return SftConfig(**{**settings, "checkpoint_every_steps": 3, "lr": 1e-3, **changes})


def tune(root: Path, name: str, config: SftConfig, progress: Progress | None = None, base: str = "base") -> StageResult:
    return sft.run(
        config, sft_inputs(root, base), str(root / name), context(root, "sft", progress), launch=run_in_process
    )


def sft_inputs(root: Path, base: str = "base") -> dict[str, Artifact]:
    return {
        "model": artifact(root, base, "pretrain"),
        "conversations": artifact(root, "conversations", "conversations"),
    }


def losses(root: Path, name: str) -> list[float]:
    return [row["loss"] for row in read_metrics(root / name / METRICS)]


@contextmanager
def poisoned_loss(factors: Mapping[int, float]) -> Iterator[None]:
    """Multiplies the training loss of SFT's passes given, counted from here, by a factor."""
    honest, passes = SFTTrainer.compute_loss, 0

    def compute_loss(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal passes
        passes += 1
        return honest(self, *arguments, **keywords) * factors.get(passes - 1, 1.0)

    SFTTrainer.compute_loss = compute_loss
    try:
        yield
    finally:
        SFTTrainer.compute_loss = honest


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_run_that_diverges_fails_with_a_sentence_and_leaves_no_model(zero_stage: int, root: Path) -> None:
    name = f"diverged{zero_stage}"
    with pytest.raises(StageFailed, match=r"at step \d; divergence.not_finite: skip .* a lower lr \(1e\+30\)"):
        tune(root, name, alone(lr=1e30, zero_stage=zero_stage))
    assert committed_result(str(root / name)) is None
    assert not list((root / name).glob("*.safetensors"))


def test_a_base_with_one_nan_is_refused_before_training(root: Path) -> None:
    make_model_directory(root / "broken")
    weights = load_file(root / "broken" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = math.nan
    save_file(weights, root / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 of \d+ weights are nan or infinite \(model.layers.1.mlp.up_proj.weight\)"):
        tune(root, "from_broken", alone(), base="broken")
    assert not (root / "from_broken").exists()


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_skipped_batch_leaves_the_weights_alone_and_is_counted(zero_stage: int, root: Path) -> None:
    """nan in one micro-batch of the last step: what is exported are the weights of a run of one step less."""
    settings = {"lr_schedule": "constant", "warmup_fraction": 0, "divergence": {"not_finite": "skip"}}
    config = alone(zero_stage=zero_stage, epochs=epochs_of(root, 72), **settings)
    name = f"skipped{zero_stage}"
    with poisoned_loss({8 * 2: math.nan}):
        result = tune(root, name, config)
    rows = read_metrics(root / name / METRICS)
    assert len(rows) == 9
    assert rows[8]["loss"] is None
    assert rows[8]["events"] == ["step 9: the training loss is nan; skip"]
    assert all(row["grad_norm"] > 0 for row in rows[:8])
    assert result.metrics["train_loss"] == rows[7]["loss"]
    shorter = f"shorter{zero_stage}"
    tune(root, shorter, config.model_copy(update={"epochs": epochs_of(root, 64)}))
    assert losses(root, shorter) == [row["loss"] for row in rows[:8]]
    weights, expected = (load_file(root / run / "model.safetensors") for run in (name, shorter))
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_a_run_of_a_single_step_has_a_learning_rate_and_trains_all_rows(root: Path) -> None:
    result = tune(root, "one_step", alone(global_batch_size=128, warmup_fraction=0.1))
    (row,) = read_metrics(root / "one_step" / METRICS)
    assert row["learning_rate"] == 1e-3
    assert result.metrics["num_trained_conversations"] == result.metrics["num_train_conversations"] > 70
    assert result.metrics["heldout_answer_loss"] < result.metrics["base_heldout_answer_loss"]


def test_a_model_whose_measuring_fails_is_not_trained_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: Any, **__: Any) -> float:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(sft, "answer_loss", out_of_memory)
        with pytest.raises(MemoryError):
            tune(root, "measured_late", alone())
    weights = (root / "measured_late" / "model.safetensors").read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(sft, "stage_trainer", None)  # which a training would call
        result = tune(root, "measured_late", alone())
    assert (root / "measured_late" / "model.safetensors").read_bytes() == weights
    assert result.metrics["heldout_answer_loss"] < result.metrics["base_heldout_answer_loss"]
    assert result.metrics["steps"] == len(read_metrics(root / "measured_late" / METRICS))


def test_training_goes_on_behind_a_skipped_batch(root: Path) -> None:
    with poisoned_loss({2: math.nan}):
        tune(root, "went_on", alone(divergence={"not_finite": "skip"}))
    shown = losses(root, "went_on")
    assert shown[1] is None
    assert shown[-1] < shown[0] - 0.5


def test_more_bad_batches_than_max_events_stop_the_run(root: Path) -> None:
    config = alone(divergence={"not_finite": "skip", "max_events": 1})
    with (
        poisoned_loss({2: math.nan, 6: math.nan}),
        pytest.raises(StageFailed, match=r"at step 4, after 1 skipped batches \(divergence.max_events\)"),
    ):
        tune(root, "often", config)


# ------------------------------------------------------------------------------- another number of workers


def resized_config(name: str, *, num_workers: int) -> SftConfig:
    """The runs `zero0` to `zero3`, and `lora0` to `lora3`."""
    lora = {"rank": 4} if name.startswith("lora") else None
    workers = {"num_workers": num_workers}
    return alone(zero_stage=int(name[-1]), lora=lora, workers=workers, micro_batch_size=2, weight_decay=0.1)


class Interrupted(SilentProgress):
    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        if done == 5:
            raise KeyboardInterrupt


def check_resized(root: Path, names: list[str]) -> None:
    """Runs of one worker that end at step 5 go on with two, from step 3, and end as undisturbed ones do."""
    for name in names:
        config = resized_config(name, num_workers=1)
        tune(root, f"undisturbed_{name}", config)
        with pytest.raises(KeyboardInterrupt):
            tune(root, name, config, Interrupted())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}}
    job = ["-m", "tests.integration.two_ranks_job", str(root), *names]
    done = subprocess.run([*command, *job], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        assert losses(root, name) == pytest.approx(losses(root, f"undisturbed_{name}"), abs=1e-5), name
        weights, expected = (load_file(root / run / "model.safetensors") for run in (name, f"undisturbed_{name}"))
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, atol=1e-4, rtol=0)


def test_a_resume_on_two_workers_has_the_losses_of_the_undisturbed_run(root: Path) -> None:
    check_resized(root, ["zero1", "lora3"])


@pytest.mark.soak
def test_so_has_one_at_the_other_zero_stages(root: Path) -> None:
    check_resized(root, ["zero0", "zero2", "zero3", "lora0", "lora1", "lora2"])
