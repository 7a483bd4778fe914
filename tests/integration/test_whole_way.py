"""The smoke spec, every stage of it, as a user runs it: killed, resumed, repeated, changed, submitted, served.

The drivers are processes of their own (`python -m cluster`), with their own embedded Ray, so that kill -9 is one.
"""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastwarc.warc import ArchiveIterator

from cluster.contracts.artifacts import open_artifact
from cluster.runs import RunRecord, read_run

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "job_specs" / "smoke.yaml"
STAGES = ("clean", "dedupe", "tokenizer", "tokenize", "pretrain", "preferences", "sft", "reward_model", "dpo", "ppo")


@dataclass(frozen=True)
class Workspace:
    """Inputs with broken records among them, and where the run goes."""

    root: Path
    inputs: list[Path]

    @property
    def storage(self) -> Path:
        return self.root / "runs"

    def arguments(self, storage: Path | None = None) -> list[str]:
        listed = "[" + ", ".join(str(path) for path in self.inputs) + "]"
        return [str(SPEC), "--storage", str(storage or self.storage), "--set", f"stages.clean.inputs={listed}"]


def _raymill(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip


def _first_records(source: Path, target: Path, count: int) -> None:
    """The first `count` records of a WARC, and a gzip member cut in its middle behind them."""
    content = source.read_bytes()
    offsets = [record.stream_pos for record in ArchiveIterator(io.BytesIO(content), parse_http=False)]
    cut = (offsets[count] + offsets[count + 1]) // 2
    target.write_bytes(content[:cut])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("whole_way")
    pages, rows = root / "pages.warc.gz", root / "rows.jsonl"
    _first_records(ROOT / "job_specs" / "data" / "web-00000.warc.gz", pages, 200)
    text = "The quick brown fox jumps over the lazy dog, and it does so with some joy. " * 20
    rows.write_text(
        json.dumps({"text": text}) + "\n" + '{"text": "broken\n' + "[1, 2]\n" + json.dumps({"text": 5}) + "\n"
    )
    return Workspace(root, [pages, rows])


def _counts(record: RunRecord) -> dict[str, Any]:
    """What must not depend on kills, machines or worker counts: ids, counts, sizes."""
    artifacts = record.artifacts()
    return {
        "fingerprints": {name: a.manifest.fingerprint for name, a in artifacts.items()},
        "clean": {k: artifacts["clean"].manifest.metrics[k] for k in ("read", "kept", "dropped", "quarantined")},
        "dedupe": {k: artifacts["dedupe"].manifest.metrics[k] for k in ("documents", "kept", "removed")},
        "tokens": artifacts["tokenize"].manifest.metrics["tokens"],
        "token_shards": sorted(f.sha256 for f in artifacts["tokenize"].files() if f.name.endswith(".arrow")),
    }


def _wait_for_stage(process: subprocess.Popen[bytes], storage: Path, finished: int, into_s: float) -> None:
    """Until `finished` stages have manifests and another `into_s` seconds have passed."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(storage.glob("*/*/manifest.json"))) >= finished:
            time.sleep(into_s)
            return
        time.sleep(0.1)


def _wait_until_gone(pids: list[int]) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.2)
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def finished_run(workspace: Workspace) -> RunRecord:
    """A run whose driver was killed with -9 in the data stages, in pre-training and in PPO, and run again."""
    moments = random.Random(os.getpid())
    for finished in (0, 4, 9):
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster", "run", *workspace.arguments()],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for_stage(process, workspace.storage, finished, moments.uniform(6, 14))
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert _wait_until_gone(children) == []
    done = _raymill("run", *workspace.arguments())
    assert done.returncode == 0, done.stdout + done.stderr
    return read_run("smoke", str(workspace.storage))


def test_a_run_killed_in_several_stages_ends_with_everything_there(
    finished_run: RunRecord, workspace: Workspace
) -> None:
    assert all(stage.finished for stage in finished_run.stages.values())
    assert set(STAGES) < set(finished_run.stages)
    report = json.loads((workspace.storage / "runs" / "smoke" / "report.json").read_text())
    figures = report["balance"]
    assert figures["read"] == figures["kept"] + sum(figures["dropped"].values()) + figures["quarantined"]
    assert figures["quarantined"] == 4  # the cut WARC record, the broken line, the list, the number
    page = (workspace.storage / "runs" / "smoke" / "report.html").read_text()
    assert "rows.jsonl" in page  # the quarantined records are named
    for name, world_size, zero_stage in (("pretrain", 2, 3), ("sft", 2, 2), ("reward_model", 2, 1), ("ppo", 2, 2)):
        engine = report["stages"][name]["engine"]
        assert engine["class"] == "DeepSpeedEngine"
        assert (engine["world_size"], engine["zero_stage"]) == (world_size, zero_stage)


def test_every_file_is_the_one_that_was_recorded_while_writing(finished_run: RunRecord) -> None:
    from cluster.contracts.commit import check_content

    for stage in finished_run.stages.values():
        files = open_artifact(stage.uri).files()
        assert files
        for file in files:
            check_content(stage.uri, file)


def test_every_models_directory_loads_with_transformers(finished_run: RunRecord) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    for name in ("pretrain", "sft", "dpo", "ppo"):
        uri = finished_run.stages[name].uri
        model = AutoModelForCausalLM.from_pretrained(uri)
        assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(uri)) == 512
    reward = AutoModelForSequenceClassification.from_pretrained(finished_run.stages["reward_model"].uri)
    assert reward.config.num_labels == 1


def test_a_second_run_takes_everything_from_the_manifests(finished_run: RunRecord, workspace: Workspace) -> None:
    started = time.perf_counter()
    done = _raymill("run", *workspace.arguments())
    assert done.returncode == 0
    assert time.perf_counter() - started < 20
    assert done.stdout.count("already there") == len(finished_run.stages)


def test_one_changed_dpo_setting_reruns_dpo_and_what_depends_on_it(
    finished_run: RunRecord, workspace: Workspace
) -> None:
    done = _raymill("run", *workspace.arguments(), "--set", "stages.dpo.beta=0.2", "--set", "name=changed")
    assert done.returncode == 0, done.stdout
    again = read_run("changed", str(workspace.storage))
    changed = {n for n, s in again.stages.items() if s.fingerprint != finished_run.stages[n].fingerprint}
    assert changed == {"dpo", "evaluate"}
    assert done.stdout.count("already there") == len(again.stages) - 2


def test_a_second_driver_on_the_same_run_is_refused(finished_run: RunRecord, workspace: Workspace) -> None:
    from cluster.runs import run_lock

    with run_lock(str(workspace.storage), "smoke"):
        done = _raymill("run", *workspace.arguments())
    assert done.returncode == 3
    assert "is being driven by process" in done.stdout


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(workspace: Workspace, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "run", *workspace.arguments(tmp_path / "runs")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    lines = iter(process.stdout.readline, "")  # type: ignore[union-attr]
    for line in lines:
        if line.startswith("[1/"):
            break
    time.sleep(3)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGINT)
    shown = "".join(lines)
    assert process.wait(timeout=60) == 130
    assert "the same command goes on from there" in shown
    assert "Traceback" not in shown
    assert _wait_until_gone(children) == []


@pytest.fixture(scope="module")
def served(finished_run: RunRecord, workspace: Workspace) -> Iterator[str]:
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "serve", "smoke", "--storage", str(workspace.storage), "--port", str(port)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert _until(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), 90), process.poll()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (0, 130)


def test_a_finished_run_is_served_and_scores(served: str) -> None:
    question = [{"role": "user", "content": "What is AI?"}]
    answer = httpx.post(
        f"{served}/v1/chat/completions", json={"model": "smoke", "messages": question, "max_tokens": 8}, timeout=60
    ).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] <= 8
    conversation = [*question, {"role": "assistant", "content": "A science."}]
    scored = httpx.post(f"{served}/v1/score", json={"messages": conversation}, timeout=60)
    assert scored.status_code == 200, scored.text
    assert re.search(r"-?\d+\.\d+", scored.text)


def test_chat_talks_to_the_served_run(served: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "chat", "--url", served],
        cwd=ROOT, input="Hello\n/quit\n", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_plainly(served: str, workspace: Workspace, finished_run: RunRecord) -> None:
    port = served.rsplit(":", 1)[1]
    done = _raymill("serve", "smoke", "--storage", str(workspace.storage), "--port", port)
    assert done.returncode == 3
    assert port in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False
