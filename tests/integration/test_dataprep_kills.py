"""Same bytes whatever happens: workers, their extraction processes and the driver killed with -9 at random points.

The driver is a process of its own, as a user starts it; what it must come to is made here without Ray, shard by shard.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard

from cluster.contracts.commit import committed_part
from cluster.runs import read_run
from dataprep.clean import input_files
from dataprep.clean_part import clean_part
from dataprep.config import CleanConfig
from dataprep.documents import Shard, read_shard_table
from dataprep.sources.shards import plan_shards

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "job_specs" / "data"
LIMITS = {"extract_timeout_s": 0.5, "max_html_depth": 10**6}
SETTINGS: dict[str, Any] = {"c4": None, "gopher_quality": None, "limits": LIMITS}
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


def start(spec: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "cluster", "run", str(spec)], cwd=ROOT, stdout=subprocess.DEVNULL)


def busy_processes(driver: int) -> list[psutil.Process]:
    """Ray's workers that clean, and the extraction processes below them."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if command.startswith("ray::Map") or "dataprep.killable" in command:
            found.append(process)
    return found


def kill_some(driver: subprocess.Popen[bytes], rng: random.Random, *, times: int) -> int:
    """Kill that many busy processes, one after another; returns how many there were to kill."""
    killed = 0
    deadline = time.monotonic() + 30
    while killed < times and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(rng.uniform(0.05, 0.5))
        processes = busy_processes(driver.pid)
        if processes:
            rng.choice(processes).kill()
            killed += 1
    return killed


def test_the_same_bytes_come_out_whatever_is_killed(tmp_path: Path) -> None:
    rng = random.Random(20261120)
    (tmp_path / "inputs").mkdir()
    write_inputs(tmp_path / "inputs")
    spec = tmp_path / "spec.yaml"
    stage = {"inputs": [str(tmp_path / "inputs")], **SETTINGS}
    resources = {"cpus": 2, "memory_gib": 1, "object_store_gib": 0.2, "disk_gib": 0.1}
    content = {"name": "kills", "storage": str(tmp_path / "runs"), "resources": resources, "stages": {"clean": stage}}
    spec.write_text(yaml.safe_dump(content))

    driver = start(spec)
    killed = kill_some(driver, rng, times=2)
    time.sleep(rng.uniform(0, 0.5))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    expected = reference(tmp_path / "inputs", tmp_path / "expected")
    again = start(spec)
    killed += kill_some(again, rng, times=2)
    assert again.wait(timeout=200) == 0
    assert killed >= 2, "there was something to kill"

    artifact = read_run("kills", str(tmp_path / "runs")).artifacts()["clean"]
    shards: list[Shard] = read_shard_table(artifact.uri)
    assert [{role: getattr(shard, role).sha256 for role in ROLES} for shard in shards] == expected
    metrics = artifact.manifest.metrics
    assert metrics["read"] == metrics["kept"] + sum(metrics["dropped"].values()) + metrics["quarantined"]
    assert metrics["quarantine_reasons"] == {
        "bad_json": 4, "timeout": 1, "empty_file": 1, "truncated_gz": 1
    }  # fmt: skip
