"""The smoke spec, every stage of it, as a user runs it: killed, submitted, repeated, changed, stopped, served.

The drivers are processes of their own (`raymill`), with their own embedded Ray, so that kill -9 is one. What two
killed drivers left is finished by `raymill submit` on a cluster of two raylets: the same spec, the same storage.
"""

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from fastwarc.warc import ArchiveIterator
from ray.cluster_utils import Cluster

from cluster.contracts.artifacts import open_artifact
from cluster.run_record import RunRecord, read_run

pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "job_specs" / "smoke.yaml"
RAYMILL = [str(Path(sys.executable).parent / "raymill")]


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


def _raymill(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RAYMILL, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=1000)


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
    """What must not depend on kills, machines or worker counts: fingerprints, ids, counts, bytes."""
    artifacts = record.artifacts()
    return {
        "fingerprints": {name: artifacts[name].manifest.fingerprint for name in ("clean", "dedupe", "tokenize")},
        "clean": {k: artifacts["clean"].manifest.metrics[k] for k in ("read", "kept", "dropped", "quarantined")},
        "dedupe": {k: artifacts["dedupe"].manifest.metrics[k] for k in ("documents", "kept", "removed")},
        "token_shards": sorted(f.sha256 for f in artifacts["tokenize"].files() if f.name.endswith(".arrow")),
    }


def _left(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended by themselves in five minutes. A number that is given again is another process."""
    return psutil.wait_procs(processes, timeout=300)[1]


@pytest.fixture(scope="module")
def two_raylets() -> Iterator[str]:
    """A cluster of two raylets of one CPU each; the address of the dashboard that takes jobs."""
    # A job's `python` is the one on the raylets' PATH, as on any cluster.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    port = _free_port()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            # Jobs are taken by this agent; its default port belongs to whichever Ray of this machine was first.
            "dashboard_agent_listen_port": _free_port(),
            "object_store_memory": 200 * 2**20,
        },
    )
    # Its own session directory, as on another machine: in a shared one, each raylet that unpacks the job's working
    # directory deletes what the other unpacked there, and with it the directory the driver is in.
    second_temp_dir = tempfile.mkdtemp(prefix="rn")
    cluster.add_node(
        num_cpus=1,
        object_store_memory=200 * 2**20,
        temp_dir=second_temp_dir,
        dashboard_agent_listen_port=_free_port(),
    )
    cluster.wait_for_nodes()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        cluster.shutdown()
        shutil.rmtree(second_temp_dir, ignore_errors=True)


def _kill_driver(arguments: list[str], after: str, into_s: float) -> list[psutil.Process]:
    """Start a run and kill -9 its driver `into_s` seconds after it has written a line that holds `after`.

    Returns the processes of its Ray, whose last agents notice after half a minute or so.
    """
    process = subprocess.Popen(
        [*RAYMILL, "run", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    shown = []
    for line in iter(process.stdout.readline, ""):
        shown.append(line)
        if after in line:
            break
    time.sleep(into_s)
    assert process.poll() is None, f"the run ended before it could be killed: {''.join(shown)}"
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return children


@dataclass(frozen=True)
class Finished:
    """The run, and what following its job showed."""

    record: RunRecord
    shown: str


@pytest.fixture(scope="module")
def finished(workspace: Workspace, two_raylets: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Killed in the data stages, killed in pre-training, then finished as a job."""
    moments = random.Random(os.getpid())
    orphans = _kill_driver(workspace.arguments(), "] clean ...", moments.uniform(0, 4))
    orphans += _kill_driver(workspace.arguments(), "] pretrain ...", moments.uniform(4, 8))
    # A working directory with packages of the same names must not get in front of ours.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("cluster", "tests", "training"):
        (elsewhere / name).mkdir()
        (elsewhere / name / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    done = _raymill("submit", *workspace.arguments(), "--address", two_raylets, cwd=elsewhere)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert _left(orphans) == []  # a killed driver's Ray dies with it
    return Finished(read_run("smoke", str(workspace.storage)), done.stdout)


@pytest.fixture(scope="module")
def finished_run(finished: Finished) -> RunRecord:
    return finished.record


def test_a_killed_run_is_finished_by_a_job_on_two_raylets(finished: Finished, workspace: Workspace) -> None:
    assert all(stage.finished for stage in finished.record.stages.values())
    assert "[4/12] tokenize      already there" in finished.shown  # taken from what the killed drivers left
    assert "[12/12] evaluate" in finished.shown  # the job's log is followed
    assert "succeeded" in finished.shown
    report = json.loads((workspace.storage / "runs" / "smoke" / "report.json").read_text())
    figures = report["balance"]
    assert figures["read"] == figures["kept"] + sum(figures["dropped"].values()) + figures["quarantined"]
    assert figures["quarantined"] == 4  # the cut WARC record, the broken line, the list, the number
    page = (workspace.storage / "runs" / "smoke" / "report.html").read_text()
    assert "rows.jsonl" in page  # the quarantined records are named
    for name, world_size, zero_stage in (
        ("pretrain", 2, 3),
        ("sft", 2, 2),
        ("reward_model", 2, 3),
        ("dpo", 2, 2),
        ("ppo", 2, 2),
    ):
        engine = report["stages"][name]["engine"]
        assert engine["class"] == "DeepSpeedEngine"
        assert (engine["world_size"], engine["zero_stage"]) == (world_size, zero_stage)


def test_kills_machines_and_worker_counts_change_no_document_and_no_token(
    finished_run: RunRecord, workspace: Workspace, tmp_path: Path
) -> None:
    spec = yaml.safe_load(SPEC.read_text())
    spec["stages"] = {name: spec["stages"][name] for name in ("clean", "dedupe", "tokenizer", "tokenize")}
    spec["resources"]["cpus"] = 1
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    arguments = [str(tmp_path / "spec.yaml"), *workspace.arguments(tmp_path / "runs")[1:]]
    done = _raymill("run", *arguments)
    assert done.returncode == 0, done.stdout
    assert _counts(read_run("smoke", str(tmp_path / "runs"))) == _counts(finished_run)


def test_a_job_that_fails_exits_with_the_drivers_code(two_raylets: str, finished: Finished, tmp_path: Path) -> None:
    settings = ["--storage", str(tmp_path), "--set", "stages.pretrain.workers={num_workers: 8, cpus: 1}"]
    done = _raymill("submit", str(SPEC), "--address", two_raylets, *settings)
    assert done.returncode == 3
    assert "needs 8 CPU at once" in " ".join(done.stdout.split())


def test_an_address_where_nothing_answers_is_told_plainly() -> None:
    done = _raymill("submit", str(SPEC), "--address", f"http://127.0.0.1:{_free_port()}")
    assert done.returncode == 3
    assert "no Ray cluster answers" in done.stderr
    assert "Traceback" not in done.stderr


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
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = _raymill("run", *workspace.arguments())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20  # CPU-seconds
    assert done.stdout.count("already there") == len(finished_run.stages)


def test_one_changed_dpo_setting_reruns_dpo_and_what_depends_on_it_also_when_killed(
    finished_run: RunRecord, workspace: Workspace
) -> None:
    there = len(finished_run.stages)
    arguments = [*workspace.arguments(), "--set", "stages.dpo.beta=0.2", "--set", "name=changed"]
    _kill_driver(arguments, "dpo: first step", 0)
    done = _raymill("run", *arguments)
    assert done.returncode == 0, done.stdout
    again = read_run("changed", str(workspace.storage))
    changed = {n for n, s in again.stages.items() if s.fingerprint != finished_run.stages[n].fingerprint}
    assert changed == {"dpo", "evaluate"}
    assert done.stdout.count("already there") == there - 2


def test_a_second_driver_on_the_same_run_is_refused(finished_run: RunRecord, workspace: Workspace) -> None:
    from cluster.run_record import run_lock

    with run_lock(str(workspace.storage), "smoke"):
        done = _raymill("run", *workspace.arguments())
    assert done.returncode == 3
    assert "is being driven by process" in done.stdout


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(workspace: Workspace, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RAYMILL, "run", *workspace.arguments(tmp_path / "runs")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    lines = iter(process.stdout.readline, "")  # type: ignore[union-attr]
    for line in lines:
        if line.startswith("[1/"):
            break
    time.sleep(3)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    shown = "".join(lines)
    assert process.wait(timeout=300) == 130
    assert "the same command goes on from there" in shown
    assert "Traceback" not in shown
    assert _left(children) == []


@pytest.fixture(scope="module")
def served(finished_run: RunRecord, workspace: Workspace) -> Iterator[str]:
    port = _free_port()
    process = subprocess.Popen(
        [*RAYMILL, "serve", "smoke", "--storage", str(workspace.storage), "--port", str(port)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert _until(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), 300), process.poll()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) in (0, 130)


def test_a_finished_run_is_served_and_scores(served: str) -> None:
    question = [{"role": "user", "content": "What is AI?"}]
    answer = httpx.post(
        f"{served}/v1/chat/completions", json={"model": "smoke", "messages": question, "max_tokens": 8}, timeout=300
    ).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] <= 8
    conversation = [*question, {"role": "assistant", "content": "A science."}]
    scored = httpx.post(f"{served}/v1/score", json={"messages": conversation}, timeout=300)
    assert scored.status_code == 200, scored.text
    assert re.search(r"-?\d+\.\d+", scored.text)


def test_chat_talks_to_the_served_run(served: str) -> None:
    done = subprocess.run(
        [*RAYMILL, "chat", "--url", served],
        cwd=ROOT, input="Hello\n/quit\n", capture_output=True, text=True, check=False, timeout=300,
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
