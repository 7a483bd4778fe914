"""Two rounds in one spec: the second starts from the first, on preferences among the first one's own answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from cluster.contracts.artifacts import Artifact
from cluster.run_record import read_run
from tests.chat_fixtures import make_model_directory, write_conversations
from training.candidates.artifact import read_candidates
from training.feedback.pairs import read_pairs
from training.metrics.metrics_log import METRICS, read_metrics

ROOT = Path(__file__).resolve().parents[2]
SPEC = """
name: rounds
storage: store
seed: 3
resources: {cpus: 2, gpus: 0, memory_gib: 0, object_store_gib: 0.2, disk_gib: 0}
stages:
  conversations: {inputs: [rows.jsonl], heldout_fraction: 0.3}
  sft:
    model: ./base
    conversations: conversations
    epochs: 12              # until answers come to an end: those that are cut off are no candidates
    lr: 5.0e-3
    global_batch_size: 8
    max_length: 96
    zero_stage: 0
    workers: &workers {num_workers: 1, cpus: 0.5}
  preferences: {conversations: conversations, disturbed_per_answer: 1}
  reward_model: {model: sft, preferences: preferences, epochs: 0.5, lr: 1.0e-3, global_batch_size: 8, max_length: 96,
    zero_stage: 0, workers: *workers}
  dpo: {model: sft, preferences: preferences, epochs: 1, lr: 3.0e-4, global_batch_size: 8, max_length: 96,
    zero_stage: 0, workers: *workers}
  candidates:
    models: {first: dpo}
    conversations: conversations
    split: both
    answers_per_prompt: 4
    max_new_tokens: 48
    server: {cpus: 0.5}
  again: {kind: preferences, candidates: candidates, scored_by: reward_model, workers: *workers}
  second: {kind: dpo, model: dpo, preferences: again, epochs: 1, lr: 1.0e-6, global_batch_size: 8, max_length: 96,
    zero_stage: 0, workers: *workers}
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("rounds")
    make_model_directory(root / "base")
    write_conversations(root / "rows.jsonl", 60)
    (root / "spec.yaml").write_text(SPEC)
    environment = {k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}}
    command = [sys.executable, "-m", "cluster", "run", str(root / "spec.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    return dict(read_run("rounds", str(root / "store")).artifacts())


def test_the_second_round_starts_from_the_first(artifacts: dict[str, Artifact]) -> None:
    first, second = artifacts["dpo"], artifacts["second"]
    assert second.manifest.inputs["model"] == first.manifest.fingerprint
    weights = {
        name: AutoModelForCausalLM.from_pretrained(artifacts[name].uri).state_dict()
        for name in ("sft", "dpo", "second")
    }

    def distance(a: str, b: str) -> float:
        return max(float((weights[a][name] - weights[b][name]).abs().max()) for name in weights[a])

    assert 0 < distance("second", "dpo") < 0.1 * distance("dpo", "sft")
    # A policy that is its own reference prefers nothing yet: log 2.
    assert read_metrics(Path(second.uri) / METRICS)[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_its_preferences_are_among_the_first_rounds_own_answers(artifacts: dict[str, Artifact]) -> None:
    found = read_candidates(artifacts["candidates"].uri)
    assert {c.model_fingerprint for p in found for c in p.candidates} == {artifacts["dpo"].manifest.fingerprint}
    answers = {json.dumps(p.prompt.messages, sort_keys=True): {c.answer for c in p.candidates} for p in found}
    sides = read_pairs(artifacts["again"].uri)
    assert all(sides)
    for pair in [*sides[0], *sides[1]]:
        own = answers[json.dumps(pair["prompt"], sort_keys=True)]
        assert {pair["chosen"][0]["content"], pair["rejected"][0]["content"]} <= own
    train, heldout = ({json.dumps(pair["prompt"], sort_keys=True) for pair in side} for side in sides)
    assert not train & heldout
