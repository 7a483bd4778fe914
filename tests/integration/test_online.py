"""PPO for real: two Ray Train workers on DeepSpeed, served policy and reward, and a worker that is killed."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.contracts.artifacts import StageContext
from cluster.contracts.progress import SilentProgress
from cluster.ppo_stage import run
from tests.online_toys import toy_artifacts, toy_conversations
from training.metrics.metrics_log import read_metrics
from training.online.config import PpoConfig

UPDATES = 14


@dataclass
class KillsRankZero(SilentProgress):
    """Rank 0 reports its progress through this, and dies of it once: kill -9 between two checkpoints."""

    at_update: int
    marker: Path

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        if done == self.at_update and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("local_ray")
def test_the_reward_rises_and_a_killed_worker_costs_no_update(tmp_path: Path) -> None:
    artifacts = toy_artifacts(tmp_path)
    artifacts["conversations"] = toy_conversations(tmp_path / "conversations", heldout_fraction=0.4)
    config = PpoConfig(
        policy="sft",
        reward_model="rm",
        conversations="conversations",
        updates=UPDATES,
        prompts_per_update=16,
        samples_per_prompt=2,
        epochs=2,
        num_minibatches=2,
        max_new_tokens=4,
        lr=1e-2,
        critic_lr=1e-2,
        kl_coef=0.02,
        kl_ceiling=20.0,
        zero_stage=2,
        heldout_prompts=21,  # odd: the ranks' shares are not equal
        heldout_samples_per_prompt=8,
        checkpoint_every=4,
        workers={"num_workers": 2, "cpus": 0.5},
        policy_server={"cpus": 0.25, "max_batch_tokens": 8192},
        reward_server={"cpus": 0.25},
    )
    marker = tmp_path / "killed"
    context = StageContext(
        "ppo", KillsRankZero(at_update=6, marker=marker), tmp_path / "scratch", tmp_path / "log", seed=1
    )
    result = run(config, artifacts, str(tmp_path / "out"), context)
    metrics = result.metrics

    assert marker.exists()
    assert result.engine == {"class": "DeepSpeedEngine", "zero_stage": 2, "world_size": 2}
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, UPDATES + 1))
    assert [row["version"] for row in rows] == list(range(1, UPDATES + 1))
    assert max(row["logprob_gap"] for row in rows) < 1e-4

    assert metrics["heldout_prompts"] == 21
    gain = metrics["heldout_reward_after"] - metrics["heldout_reward_before"]
    assert gain > 2 * metrics["heldout_reward_se"] > 0
    assert metrics["kl_under_ceiling"]
    assert metrics["distinct_answers_after"] >= metrics["distinct_answers_before"] / 2

    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert {file.name for file in result.files} >= {"model.safetensors", "tokenizer.json", "metrics.jsonl"}
