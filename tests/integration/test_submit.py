"""The same spec as a Ray job on a cluster of two raylets that is already up."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cluster.runs import read_run

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "job_specs" / "smoke.yaml"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """Two raylets of one CPU each, and the dashboard that takes jobs."""
    port = _free_port()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            "object_store_memory": 200 * 2**20,
        },
    )
    cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    cluster.wait_for_nodes()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        cluster.shutdown()


def _submit(url: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "raymill"), "submit", *arguments, "--address", url],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=290,
    )  # fmt: skip


def test_the_whole_way_runs_as_a_job_across_two_raylets(cluster_url: str, tmp_path: Path) -> None:
    # A working directory with packages of the same names must not get in front of ours.
    for name in ("cluster", "tests", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    storage = tmp_path / "runs"
    done = _submit(cluster_url, str(SPEC), "--storage", str(storage), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "[11/11] evaluate" in done.stdout  # the job's log is followed
    assert "succeeded" in done.stdout
    record = read_run("smoke", str(storage))
    assert all(stage.finished for stage in record.stages.values())
    report = json.loads((storage / "runs" / "smoke" / "report.json").read_text())
    assert report["stages"]["pretrain"]["engine"]["world_size"] == 2


def test_a_job_that_fails_exits_with_the_drivers_code(cluster_url: str, tmp_path: Path) -> None:
    done = _submit(
        cluster_url, str(SPEC), "--storage", str(tmp_path), "--set", "stages.pretrain.workers={num_workers: 8, cpus: 1}"
    )
    assert done.returncode == 3
    assert "needs 8 CPU at once" in " ".join(done.stdout.split())


def test_an_address_where_nothing_answers_is_told_plainly() -> None:
    done = _submit(f"http://127.0.0.1:{_free_port()}", str(SPEC))
    assert done.returncode == 3
    assert "no Ray cluster answers" in done.stderr
    assert "Traceback" not in done.stderr
