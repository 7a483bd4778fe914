"""Storage, commits and whole data stages on a server that speaks the S3 protocol."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts import storage
from cluster.contracts.commit import check_content, commit_part, committed_parts, sweep
from cluster.runs import read_run
from dataprep.config import Columns
from dataprep.sources.readers import read_sources
from dataprep.sources.records import PlainText
from dataprep.sources.shards import plan_shards

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of an empty bucket; credentials and endpoint go by the environment, as users give them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.put(f"{endpoint}/raymill", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield "s3://raymill"
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.kill()
        server.wait()


def test_files_and_directories_behave_as_on_a_local_disk(bucket: str) -> None:
    uri = f"{bucket}/a/x.json"
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert [f.uri for f in storage.expand(f"{bucket}/a/*.json")] == [uri]
    assert storage.exists(f"{bucket}/a")
    assert not storage.exists(f"{bucket}/b")
    assert storage.list_files(f"{bucket}/b") == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/absent")
    storage.delete_file(f"{bucket}/absent")
    storage.delete_directory(f"{bucket}/a")
    assert storage.list_files(bucket, recursive=True) == []


def test_a_directory_can_be_had_as_local_files(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    storage.upload_file(tmp_path / "source", f"{bucket}/model/deep/file")
    with storage.local_copy(f"{bucket}/model", tmp_path / "scratch") as local:
        assert (local / "deep" / "file").read_bytes() == b"content"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_exception_half_way_publishes_an_object_that_no_reader_sees(bucket: str) -> None:
    directory = f"{bucket}/parts"
    with commit_part(directory, "good") as part, part.open("data", "bin") as sink:
        sink.write(b"x" * 1000)

    def write_half() -> None:
        with commit_part(directory, "bad") as part, part.open("data", "bin") as sink:
            sink.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    parts = committed_parts(directory)
    assert list(parts) == ["good"]
    check_content(directory, parts["good"].files["data"])
    sweep(directory)
    assert len(storage.list_files(directory)) == 1


def test_many_small_files_are_read_in_their_order(bucket: str) -> None:
    for number in range(50):
        storage.write_bytes(f"{bucket}/small/{number:03}.txt", f"text {number}".encode() if number != 30 else b"")
    (shard,) = plan_shards(storage.expand(f"{bucket}/small"))
    records = list(read_sources(shard.sources, columns=Columns(), max_record_bytes=100))
    found = [record.text if isinstance(record, PlainText) else getattr(record, "reason", "") for record in records]
    assert found == [f"text {number}" if number != 30 else "empty_file" for number in range(50)]


def test_the_data_stages_run_from_a_bucket_into_a_bucket(bucket: str, tmp_path: Path) -> None:
    rows = [{"text": f"Document {i} tells the story of number {i}, and of the {i} things that it has with it. " * 12}
            for i in range(40)]  # fmt: skip
    storage.write_bytes(f"{bucket}/raw/rows.jsonl", "\n".join(json.dumps(r) for r in [*rows, rows[3]]).encode())
    table = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{"text": f"Row {i} of the table. " * 20} for i in range(5)]), table)
    storage.write_bytes(f"{bucket}/more/table.parquet", table.getvalue().to_pybytes())
    storage.write_bytes(f"{bucket}/more/inputs.list", f"table.parquet\n{bucket}/raw/*.jsonl\n".encode())
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        dedent(
            f"""
            name: remote
            storage: {bucket}/store
            resources: {{cpus: 2, memory_gib: 1, object_store_gib: 0.2}}
            stages:
              clean: {{inputs: ["{bucket}/more/inputs.list"], gopher_repetition: null, gopher_quality: null, c4: null}}
              dedupe: {{parts: clean, fuzzy: null}}
              tokenizer: {{documents: dedupe, vocab_size: 300}}
              tokenize: {{documents: dedupe, tokenizer: tokenizer, heldout_fraction: 0.1}}
            """
        )
    )
    command = [sys.executable, "-m", "cluster", "run", str(spec)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_run("remote", f"{bucket}/store")
    metrics = {name: a.manifest.metrics for name, a in record.artifacts().items()}
    assert (metrics["clean"]["read"], metrics["clean"]["shards"]) == (41 + 5, 2)
    assert metrics["dedupe"]["removed"]["exact_duplicate"] == 1
    assert metrics["tokenize"]["documents"] + metrics["tokenize"]["heldout_documents"] >= metrics["dedupe"]["kept"]
    assert storage.exists(f"{bucket}/store/runs/remote/report.html")
