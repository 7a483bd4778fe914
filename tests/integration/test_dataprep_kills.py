"""Same bytes whatever happens: workers, their extraction processes and the driver killed with -9 at random points.

The driver is a process of its own, as a user starts it: at first with its own Ray, then joined to the tests', which
starts sooner. What it must come to is made undisturbed: the clean parts without Ray, shard by shard, what follows with
another number of tasks at a time and of another size.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml
import zstandard

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact
from cluster.contracts.commit import committed_part
from cluster.contracts.config import Resources
from cluster.contracts.tokens import INDEX
from cluster.run_record import read_run
from dataprep.clean import stage as clean
from dataprep.clean.config import CleanConfig
from dataprep.clean.part import clean_part
from dataprep.dedupe import stage as dedupe
from dataprep.dedupe.config import DedupeConfig
from dataprep.documents import SHARD_TABLE, Shard, read_shard_table
from dataprep.ray_tasks import run_shard_tasks
from dataprep.sources.shards import input_files, plan_shards
from dataprep.tokenize import stage as tokenize
from dataprep.tokenize.config import TokenizeConfig
from dataprep.tokenizer import stage as tokenizer
from dataprep.tokenizer.config import TokenizerConfig
from tests.integration.test_dataprep import HALF_CPU, Storage

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "job_specs" / "data"
LIMITS = {"extract_timeout_s": 0.5, "max_html_depth": 10**6}
SETTINGS: dict[str, Any] = {"c4": None, "gopher_quality": None, "limits": LIMITS}
VOCABULARY = {"vocab_size": 400, "sample_characters": 100_000}
SEED = 20261121
ROLES = ("documents", "signatures", "dropped", "quarantined")


def write_inputs(root: Path) -> None:
    """Pages, rows and records of every kind that the stage reads, bad ones among them."""
    with zstandard.open(SAMPLES / "speeches.jsonl.zst", "rt") as lines:
        rows = [{"text": orjson.loads(line)["text"][:4000]} for line in lines]
    for part in range(4):
        content = "\n".join(json.dumps(row) for row in rows[part::4]) + "\n{broken\n"
        (root / f"rows-{part}.jsonl").write_text(content)
    pq.write_table(pa.Table.from_pylist(rows), root / "table.parquet", row_group_size=50)
    (root / "pages").mkdir()
    for number, row in enumerate(rows):
        (root / "pages" / f"{number:04}.html").write_text(f"<title>{number}</title><p>{row['text']}</p>")
    (root / "pages" / "0007.html").write_text("<div>" * 100_000)  # would take most of a minute
    (root / "pages" / "0011.html").write_bytes(b"")
    crawl = (SAMPLES / "web-00000.warc.gz").read_bytes()
    (root / "crawl.warc.gz").write_bytes(crawl[: len(crawl) * 2 // 3])


def reference(inputs: Path, parts: Path) -> list[dict[str, str]]:
    """The checksums of each shard's files, made without Ray."""
    config = CleanConfig(inputs=[str(inputs)], **SETTINGS)
    checksums = []
    for shard in plan_shards(input_files(config.inputs)):
        clean_part(shard.sources, parts=str(parts), key=shard.key, config=config)
        part = committed_part(str(parts), shard.key)
        assert part is not None
        checksums.append({role: part.files[role].sha256 for role in ROLES})
    return checksums


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts drivers; those that a failed test leaves are killed."""
    drivers = []

    def started(spec: Path, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cluster", "run", str(spec), *options]
        drivers.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL))
        return drivers[-1]

    yield started
    for driver in drivers:
        driver.kill()
        driver.wait()


def busy_processes() -> list[psutil.Process]:
    """Ray's workers at a task, of the driver's Ray and the tests', and the extraction processes below them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if command.startswith("ray::Map") or "dataprep.killable_process" in command:
            found.append(process)
    return found


def kill_some(driver: subprocess.Popen[bytes], rng: random.Random, *, times: int) -> int:
    """Kill that many busy processes, one after another; returns how many there were to kill."""
    killed = 0
    deadline = time.monotonic() + 90
    while killed < times and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(rng.uniform(0.05, 0.5))
        processes = busy_processes()
        if processes:
            rng.choice(processes).kill()
            killed += 1
    return killed


def kill_driver_after_commit(driver: subprocess.Popen[bytes], pattern: str, *, root: Path, wait_s: float) -> None:
    """Kill the driver `wait_s` after some unit that matches `pattern` was committed."""
    deadline = time.monotonic() + 120
    while not any(root.glob(pattern)):
        assert driver.poll() is None, f"it ended before there was any {pattern}"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(wait_s)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def outputs(artifact: Artifact) -> dict[str, str]:
    """What every file of an artifact holds: its checksum, or for a table that names attempts' files, all its values.

    Attempts differ in the middle of a name only. Where the parts lie is the run's choice and left out.
    """
    found = {}
    for file in artifact.files():
        content = file.sha256
        if file.name in {SHARD_TABLE, INDEX}:
            table = storage.read_table(artifact.path(file.name))
            table = table.drop_columns([name for name in ("parts",) if name in table.column_names])
            content = without_attempts(f"{table.schema}\n{table.to_pylist()}")
        found[without_attempts(file.name)] = content
    return found


def without_attempts(text: str) -> str:
    return re.sub(r"\.[0-9a-f]{12}\.", ".", text)


def undisturbed(inputs: Path, place: Storage) -> dict[str, Artifact]:
    """The four stages' artifacts, run one after another on the tests' Ray of four half-CPUs."""
    settings = {"workers": HALF_CPU}
    cleaned = place.run(clean.run, CleanConfig(inputs=[str(inputs)], **settings, **SETTINGS))
    deduplicated = place.run(dedupe.run, DedupeConfig(parts="clean", **settings), parts=cleaned)
    vocabulary = TokenizerConfig(documents="dedupe", **VOCABULARY)
    trained = place.run(tokenizer.run, vocabulary, documents=deduplicated)
    encoding = TokenizeConfig(documents="dedupe", tokenizer="tokenizer", **settings)
    tokens = place.run(tokenize.run, encoding, documents=deduplicated, tokenizer=trained)
    return {"clean": cleaned, "dedupe": deduplicated, "tokenizer": trained, "tokenize": tokens}


@dataclass(frozen=True)
class Expected:
    """What must come out of `inputs`."""

    inputs: Path
    place: Storage
    parts: list[dict[str, str]]  # of clean, made without Ray
    artifacts: dict[str, Artifact]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Expected:
    root = tmp_path_factory.mktemp("expected")
    (root / "inputs").mkdir()
    write_inputs(root / "inputs")
    place = Storage(root / "runs")
    parts = reference(root / "inputs", root / "runs" / "parts" / "clean")
    return Expected(root / "inputs", place, parts, undisturbed(root / "inputs", place))


@pytest.mark.soak
def test_the_same_bytes_come_out_whatever_is_killed(
    tmp_path: Path, expected: Expected, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    spec, runs = tmp_path / "spec.yaml", tmp_path / "runs"
    content = {
        "name": "kills",
        "storage": str(runs),
        "resources": {"cpus": 2, "memory_gib": 1, "object_store_gib": 0.2, "disk_gib": 0.1},
        "stages": {
            "clean": {"inputs": [str(expected.inputs)], **SETTINGS},
            "dedupe": {"parts": "clean", "task_gib": 6e-5},
            "tokenizer": {"documents": "dedupe", **VOCABULARY},
            "tokenize": {"documents": "dedupe", "tokenizer": "tokenizer"},
        },
    }
    spec.write_text(yaml.safe_dump(content))

    driver = start(spec)
    killed = kill_some(driver, rng, times=2)
    time.sleep(rng.uniform(0, 0.5))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    joined = ("--address", ray.get_runtime_context().gcs_address)
    again = start(spec, *joined)
    killed += kill_some(again, rng, times=1)
    assert killed >= 2, "there was something to kill"
    kill_driver_after_commit(again, "dedupe/*/work/_committed/near-*", root=runs, wait_s=rng.uniform(0, 0.3))
    assert not any(runs.glob("dedupe/*/manifest.json")), "killed in its midst"
    third = start(spec, *joined)
    kill_driver_after_commit(third, "tokenize/*/_committed/part-*", root=runs, wait_s=rng.uniform(0, 0.1))
    last = start(spec, *joined)
    kill_some(last, rng, times=1)
    assert last.wait(timeout=200) == 0

    artifacts = read_run("kills", str(runs)).artifacts()
    shards: list[Shard] = read_shard_table(artifacts["clean"].uri)
    assert [{role: getattr(shard, role).sha256 for role in ROLES} for shard in shards] == expected.parts
    for stage in ("clean", "dedupe", "tokenizer", "tokenize"):
        assert outputs(artifacts[stage]) == outputs(expected.artifacts[stage])
    assert artifacts["dedupe"].manifest.metrics["clusters"] > 100, "there was something to find"
    metrics = artifacts["clean"].manifest.metrics
    assert metrics["read"] == metrics["kept"] + sum(metrics["dropped"].values()) + metrics["quarantined"]
    assert metrics["quarantine_reasons"] == {
        "bad_json": 4, "timeout": 1, "empty_file": 1, "truncated_gz": 1
    }  # fmt: skip


@dataclass(frozen=True)
class Deadly:
    """A shard's task that some shards' first attempt does not survive: its process is killed at a random moment."""

    task: Callable[[dict[str, Any]], int]
    marks: Path
    seed: int

    def __call__(self, row: dict[str, Any]) -> int:
        unit = str(row.get("number", row["uri"].split(" ")[0]))  # without paths: the same in every run
        rng = random.Random(f"{self.seed} {unit}")
        mark = self.marks / unit
        if rng.random() < 0.2 and not mark.exists():
            mark.touch()
            wait_s = rng.expovariate(1 / 0.01)
            threading.Timer(wait_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
            done = self.task(row)
            time.sleep(wait_s)  # killed after its commit, then
            return done
        return self.task(row)


@pytest.mark.soak
def test_tasks_killed_in_their_midst_leave_the_same_bytes(
    tmp_path: Path, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {SEED}")

    def deadly(task: Callable[[dict[str, Any]], int], *arguments: Any, **settings: Any) -> None:
        run_shard_tasks(Deadly(task, tmp_path, SEED), *arguments, **settings)

    for module in ("dedupe.matching", "dedupe.clusters", "tokenize.stage"):
        monkeypatch.setattr(f"dataprep.{module}.run_shard_tasks", deadly)
    was = expected.artifacts
    # Tasks of two bands, which the undisturbed run took all in one.
    settings = DedupeConfig(parts="clean", workers=HALF_CPU, task_gib=6e-5)
    found = expected.place.run(dedupe.run, settings, "killed", parts=was["clean"])
    encoding = TokenizeConfig(documents="dedupe", tokenizer="tokenizer", workers=Resources(cpus=1))
    inputs = {"documents": found, "tokenizer": was["tokenizer"]}
    tokens = expected.place.run(tokenize.run, encoding, "killed", **inputs)
    assert len(list(tmp_path.iterdir())) >= 4, "there was something to kill"
    assert outputs(found) == outputs(was["dedupe"])
    assert outputs(tokens) == outputs(was["tokenize"])
    assert found.manifest.metrics == was["dedupe"].manifest.metrics
