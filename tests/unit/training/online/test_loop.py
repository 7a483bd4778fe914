"""The whole loop in one process, without Ray: real models, the real engine, DeepSpeed on one rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.progress import SilentProgress
from tests.online_toys import ToyServers, toy_artifacts, toy_conversations
from training.launch.workers import run_in_process
from training.metrics.metrics_log import read_metrics
from training.online.config import PpoConfig
from training.online.loop import train


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    return toy_artifacts(tmp_path)


def servers(artifacts: dict[str, Artifact], kind: type[ToyServers] = ToyServers) -> ToyServers:
    return kind(artifacts["policy"].uri, artifacts["reward_model"].uri)


def run(tmp_path: Path, artifacts: dict[str, Artifact], client: Any, **changes: Any) -> StageResult:
    settings: dict[str, Any] = {
        "updates": 4,
        "prompts_per_update": 8,
        "epochs": 2,
        "num_minibatches": 2,
        "max_new_tokens": 10,
        "lr": 3e-3,
        "critic_lr": 3e-3,
        "checkpoint_every": 2,
        "heldout_samples_per_prompt": 2,
        "kl_ceiling": 100.0,
    }
    config = PpoConfig(
        policy="sft",
        reward_model="rm",
        conversations="conversations",
        **{**settings, **changes},
    )
    context = StageContext("ppo", SilentProgress(), tmp_path / "scratch", tmp_path / "log")
    directory = tmp_path / "conversations"
    given = Artifact(str(directory), Manifest("conversations", "toy", {}, {})) if directory.exists() else None
    artifacts = {**artifacts, "conversations": given or toy_conversations(directory)}
    return train(config, artifacts, str(tmp_path / "out"), context, client, launch=run_in_process)


def test_every_update_publishes_its_version_and_the_policy_published_last_is_the_one_exported(
    tmp_path, artifacts, one_rank
):
    client = servers(artifacts)
    result = run(tmp_path, artifacts, client)
    assert client.published == [0, 1, 2, 3, 4]
    assert result.metrics["updates"] == 4
    assert result.engine == {"class": "DeepSpeedEngine", "zero_stage": 2, "world_size": 1}
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(exported[name], tensor) for name, tensor in client.newest.items())


def test_the_log_has_every_update_once_with_engine_and_trainer_agreeing(tmp_path, artifacts, one_rank):
    run(tmp_path, artifacts, servers(artifacts))
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-9)  # nothing is trained yet
    assert all(row["logprob_gap"] < 1e-5 for row in rows)


class DiesAtThree(ToyServers):
    """Its third update's weights never arrive."""

    def publish(self, version: int, state: dict[str, Any]) -> None:
        if version == 3:
            raise RuntimeError("the trainer was killed here")
        super().publish(version, state)


def test_a_run_cut_off_goes_on_from_its_checkpoint_with_the_same_figures_of_before(tmp_path, artifacts, one_rank):
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, artifacts, servers(artifacts, DiesAtThree))
    client = servers(artifacts)
    resumed = run(tmp_path, artifacts, client)
    assert client.published == [2, 3, 4]  # the weights of the checkpoint first: servers may hold others
    assert [row["step"] for row in read_metrics(tmp_path / "out" / "metrics.jsonl")] == [1, 2, 3, 4]
    straight = run(tmp_path / "straight", artifacts, servers(artifacts))
    assert resumed.metrics == pytest.approx(straight.metrics, rel=1e-3, abs=1e-3)
    assert run(tmp_path, artifacts, None) == resumed  # finished: nothing is done again


class OneBehind(ToyServers):
    """Serves the weights it is given under the number before."""

    def publish(self, version: int, state: dict[str, Any]) -> None:
        super().publish(max(0, version - 1), state)


def test_answers_of_another_version_stop_the_run(tmp_path, artifacts, one_rank):
    with pytest.raises(StageFailed, match=r"version \[0\], and the trainer holds version 1"):
        run(tmp_path, artifacts, servers(artifacts, OneBehind))


def test_a_policy_that_leaves_the_ceiling_is_trained_no_further(tmp_path, artifacts, one_rank):
    result = run(tmp_path, artifacts, servers(artifacts), lr=0.05, updates=6, kl_ceiling=0.01)
    assert result.metrics["stopped_early"]
    assert result.metrics["updates"] < 6
    assert not result.metrics["kl_under_ceiling"]


def test_a_reward_model_of_another_vocabulary_is_refused(tmp_path, artifacts, one_rank):
    path = artifacts["reward_model"].uri
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(path)
    with pytest.raises(InputError, match="different vocabularies"):
        run(tmp_path, artifacts, servers(artifacts))
