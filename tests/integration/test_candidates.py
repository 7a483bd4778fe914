"""Candidates from servers on a real Ray, and after kills."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray import serve

from cluster import candidates_stage
from cluster.contracts.artifacts import Artifact, Manifest, StageContext
from cluster.contracts.commit import committed_parts
from cluster.contracts.progress import SilentProgress
from serving.deploy import serve_is_running
from tests.chat_fixtures import make_conversations, make_model_directory, write_conversations
from training.candidates.artifact import read_candidates
from training.candidates.config import CandidatesConfig
from training.launch.workers import Launcher, run_in_process, run_workers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("candidates")
    make_model_directory(root / "a")
    make_model_directory(root / "b")
    write_conversations(root / "rows.jsonl", 40)
    make_conversations(root / "talks", [root / "rows.jsonl"])
    run(root, "undisturbed", run_in_process)
    return root


def run(root: Path, output: str, launch: Launcher, progress: SilentProgress | None = None, replicas: int = 1) -> None:
    config = CandidatesConfig(
        models={"a": "a", "b": "b"},
        conversations="talks",
        answers_per_prompt=2,
        max_new_tokens=24,
        prompts_per_part=4,
        server={"num_replicas": replicas, "cpus": 0.5},
    )
    inputs = {f"models.{name}": Artifact(str(root / name), Manifest("sft", name, {}, {})) for name in "ab"}
    inputs["conversations"] = Artifact(str(root / "talks"), Manifest("conversations", "talks", {}, {}))
    context = StageContext("candidates", progress or SilentProgress(), root / "scratch", root / "logs", seed=3)
    candidates_stage.run(config, inputs, str(root / output), context, launch=launch)


class KilledReplica(SilentProgress):
    """Kills the replica that works, once, when a part is there."""

    killed = False

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        if not self.killed:
            self.killed = True
            (name,) = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if "answers" in a["name"]][:1]
            ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


def test_replicas_answer_as_an_engine_in_this_process_does_also_after_one_was_killed(
    local_ray: None, root: Path
) -> None:
    progress = KilledReplica()
    run(root, "served", run_workers, progress, replicas=2)
    assert progress.killed
    assert read_candidates(str(root / "served")) == read_candidates(str(root / "undisturbed"))
    assert not serve_is_running() or "answers" not in serve.status().applications


def test_a_stage_killed_at_random_goes_on_and_ends_with_the_answers_of_an_undisturbed_run(root: Path) -> None:
    output = root / "killed"
    chance = random.Random(os.getpid())
    kills = 0
    for _ in range(2):
        code = (
            "from pathlib import Path; from tests.integration.test_candidates import run, run_in_process;"
            f"run(Path({str(root)!r}), 'killed', run_in_process)"
        )
        before = len(committed_parts(str(output)))
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while process.poll() is None and len(committed_parts(str(output))) < before + 2:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills > 0
    run(root, "killed", run_in_process)
    assert read_candidates(str(output)) == read_candidates(str(root / "undisturbed"))
    assert len(list(output.glob("*.answers.parquet"))) == len(committed_parts(str(output)))
