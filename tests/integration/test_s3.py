"""Storage, commits and whole data stages on a server that speaks the S3 protocol."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, Manifest
from cluster.contracts.commit import check_content, commit_part, committed_parts, sweep
from cluster.contracts.errors import CorruptArtifact, InputError, StorageError
from cluster.contracts.retry import Backoff
from cluster.contracts.tokens import ShardEntry, read_token_index, write_token_index, write_token_shard
from cluster.run_record import read_run
from dataprep.sources.config import Columns
from dataprep.sources.readers import read_sources
from dataprep.sources.records import PlainText
from dataprep.sources.shards import plan_shards
from tests.integration.single_rank import one_rank
from tests.integration.test_pretrain import Heard, context, losses, tiny_config
from tests.integration.token_fixtures import make_tokenizer, make_tokens
from training.data.sampler import IGNORE_INDEX
from training.launch.workers import run_in_process
from training.metrics.metrics_log import METRICS
from training.pretrain.config import PretrainConfig
from training.pretrain.job import PretrainJob
from training.pretrain.open_data import check_data, open_heldout, open_training
from training.pretrain.stage import run

assert one_rank  # the fixture of that name, for this module too
ROOT = Path(__file__).resolve().parents[2]
AWAY_S = 7.0  # pyarrow's client itself tries again for 6


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


NUM_SHARDS, SHARD_TOKENS = 6, 20_000


@pytest.fixture(scope="module")
def tokens(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A remote token store of six shards, the tokens of each being its number, and a held-out one."""
    local, entries = tmp_path_factory.mktemp("tokens"), []
    for number in range(NUM_SHARDS + 1):
        path = local / f"{number}.arrow"
        with open(path, "wb") as sink:
            tokens_T = np.full(SHARD_TOKENS, number, np.uint16)
            write_token_shard(sink, tokens_T, np.array([0, SHARD_TOKENS]), np.zeros(1, np.int64), ["x"])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        heldout = number == NUM_SHARDS
        entries.append(ShardEntry(path.name, path.stat().st_size, digest, 1, SHARD_TOKENS, heldout))
        storage.upload_file(path, f"{bucket}/tokens/{path.name}")
    write_token_index(f"{bucket}/tokens", entries)
    return f"{bucket}/tokens"


def job(tokens: str, directory: Path, **settings: Any) -> PretrainJob:
    config = PretrainConfig(
        tokens=tokens, tokenizer="-", model="tiny", steps=1, sequence_length=500, data_cache=str(directory), **settings
    )
    return PretrainJob(config, tokens, "-", "-", None, "-", seed=1)


def copies(directory: Path) -> int:
    return len(list(directory.glob("*.arrow")))


def bytes_in(directory: Path) -> int:
    """The size of what stands there, while a prefetching thread removes and renames files."""
    size = 0
    for path in directory.iterdir():
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def test_remote_shards_are_copied_once_checked_and_mapped_from_there(tokens: str, tmp_path: Path) -> None:
    train, (heldout,) = open_training(job(tokens, tmp_path)), open_heldout(job(tokens, tmp_path)).values()
    assert copies(tmp_path) == NUM_SHARDS + 1
    assert heldout is not None
    assert set(heldout.batch(np.arange(3)).input_ids_BT.ravel()) == {NUM_SHARDS}
    batch = train.batch(np.arange(train.num_samples))
    counts = np.bincount(batch.labels_BT[batch.labels_BT != IGNORE_INDEX])
    assert counts.tolist() == [SHARD_TOKENS - 1] + [SHARD_TOKENS] * (NUM_SHARDS - 1)  # the first token is no label
    cut = next(tmp_path.glob("*.arrow"))
    cut.write_bytes(b"cut")  # by whatever: it is told by its size and fetched again
    open_training(job(tokens, tmp_path))
    assert cut.stat().st_size > 3


def test_processes_share_the_copies_and_one_that_is_killed_leaves_nothing_in_the_way(
    tokens: str, tmp_path: Path
) -> None:
    program = dedent(
        f"""
        from pathlib import Path
        from cluster.contracts.progress import SilentProgress
        from cluster.contracts.tokens import read_token_index
        from training.data.shard_cache import ShardCache
        from training.data.token_stream import StoredTokens
        cache = ShardCache(Path({str(tmp_path)!r}), budget_bytes=None)
        stream = StoredTokens({tokens!r}, read_token_index({tokens!r}), random_reads=True, localise=cache.localise)
        print("ready", flush=True)
        cache.fetch_all(stream.shards([(0, stream.num_tokens)]), SilentProgress())
        print(len(stream.read(0, stream.num_tokens)))
        """
    )
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert started[0].stdout is not None
    started[0].stdout.readline()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    started[0].kill()
    outputs = [process.communicate(timeout=100)[0] for process in started]
    assert outputs[1:] == [f"ready\n{(NUM_SHARDS + 1) * SHARD_TOKENS}\n"] * 2
    open_training(job(tokens, tmp_path))
    assert copies(tmp_path) == NUM_SHARDS + 1
    assert list(tmp_path.glob("*.partial")) == []


def test_a_windowed_order_needs_a_part_of_the_store_at_a_time(tokens: str, tmp_path: Path) -> None:
    shard_gib = SHARD_TOKENS * 2.2 / 2**30
    settings = {"shuffle": "windows", "shuffle_window": SHARD_TOKENS // 500, "data_cache_gib": 5 * shard_gib}
    train = open_training(job(tokens, tmp_path, **settings))
    seen, most = [], 0
    for first in range(0, train.num_samples, 10):
        batch = train.batch(np.arange(first, min(first + 10, train.num_samples)))
        seen += batch.input_ids_BT[:, 0].tolist()
        most = max(most, bytes_in(tmp_path))
    assert most <= settings["data_cache_gib"] * 2**30
    assert np.bincount(seen).tolist() == [SHARD_TOKENS // 500] * NUM_SHARDS
    assert 3 <= copies(tmp_path) <= 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_cache_gib": 1e-4}, "data_cache_gib is 0.0001, and samples are drawn from all shards.*shuffle: windows"),
        ({"data_cache_gib": 1e-4, "shuffle": "windows", "shuffle_window": 40}, "two windows.*lower shuffle_window"),
    ],
)
def test_a_cache_too_small_for_the_order_is_refused(settings: dict[str, Any], message: str, tokens: str) -> None:
    manifest = Manifest("tokenize", "t", {}, {"tokenizer": "k"})
    tokenizer = Artifact("-", Manifest("tokenizer", "k", {}, {}))
    with pytest.raises(InputError, match=message):
        check_data(job(tokens, Path("-"), **settings), Artifact(tokens, manifest), tokenizer, 300)


def test_a_shard_that_is_not_the_one_in_the_index_is_refused(bucket: str, tokens: str, tmp_path: Path) -> None:
    content = bytearray(storage.read_bytes(f"{tokens}/2.arrow"))
    content[9000] ^= 1
    entries = [entry for entry in read_token_index(tokens) if entry.name == "2.arrow"]
    storage.write_bytes(f"{bucket}/other/2.arrow", bytes(content))
    write_token_index(f"{bucket}/other", entries)
    with pytest.raises(CorruptArtifact, match=r"2\.arrow came with SHA-256"):
        open_training(job(f"{bucket}/other", tmp_path))
    assert copies(tmp_path) == 0


class FailingStore(ThreadingHTTPServer):
    """Passes requests on. Until `back_at`, and for the bucket `gone` always, it answers 503 or drops the connection."""

    daemon_threads = True

    def __init__(self, store: str, *, back_at: float, gone: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passer)
        self.store, self.back_at, self.gone = store, back_at, gone
        self.refused: Counter[str] = Counter()  # requests by bucket


class _Passer(BaseHTTPRequestHandler):
    server: FailingStore

    def _pass_on(self) -> None:
        body = self._body()
        bucket = self.path.strip("/").split("/")[0].split("?")[0]
        if bucket == self.server.gone or time.monotonic() < self.server.back_at:
            self.server.refused[bucket] += 1
            if self.server.refused[bucket] % 2:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True
            return
        left_out = {"host", "transfer-encoding", "content-length", "expect"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        answer = httpx.request(self.command, f"{self.server.store}{self.path}", headers=headers, content=body)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "date", "server"}:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_store_that_fails_is_waited_for_and_one_that_stays_away_is_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with commit_part(f"{bucket}/waited", "first") as part, part.open("data", "bin") as sink:
        sink.write(b"content")
    server = FailingStore(os.environ["AWS_ENDPOINT_URL"], back_at=time.monotonic() + AWAY_S, gone="gone")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(storage, "PATIENCE", Backoff(attempts=2, first_wait_s=2))
    started = time.monotonic()
    try:
        with ThreadPoolExecutor() as pool:
            lost = pool.submit(committed_parts, "s3://gone/parts")
            written = pool.submit(storage.write_bytes, f"{bucket}/waited/new", b"new")
            (found,) = committed_parts(f"{bucket}/waited").values()
            assert time.monotonic() - started > AWAY_S - 1
            written.result()
            with pytest.raises(
                StorageError, match=r"can't list s3://gone/parts/_committed: .*\(2 attempts in \d\d s\)"
            ):
                lost.result()
        assert time.monotonic() - started < 30
        check_content(f"{bucket}/waited", found.files["data"])
        assert storage.read_bytes(f"{bucket}/waited/new") == b"new"
        assert server.refused["raymill"] > 2
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(f"{bucket}/absent")
    finally:
        server.shutdown()
        server.server_close()


def test_pretraining_into_a_bucket_outlasts_a_failing_store_and_a_stop(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fails under the first checkpoint, then the run is stopped: it ends with the losses of a local run."""
    inputs = {"tokens": make_tokens(tmp_path / "tokens"), "tokenizer": make_tokenizer(tmp_path / "tokenizer")}
    config = tiny_config(num_workers=1)
    run(config, inputs, str(tmp_path / "local"), context(tmp_path), launch=run_in_process)
    server = FailingStore(os.environ["AWS_ENDPOINT_URL"], back_at=0.0, gone="gone")
    threading.Thread(target=server.serve_forever, daemon=True).start()

    class Stopped(Heard):
        def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
            if done == 4:
                server.back_at = time.monotonic() + AWAY_S
            elif done == 7:
                assert server.back_at > time.monotonic()  # training goes on while the checkpoint of step 5 waits
                raise KeyboardInterrupt

    output, heard = f"{bucket}/pretrained", Heard()
    with monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(KeyboardInterrupt):
            run(config, inputs, output, context(tmp_path, Stopped()), launch=run_in_process)
    assert server.refused["raymill"] > 0
    server.shutdown()
    server.server_close()
    result = run(config, inputs, output, context(tmp_path, heard), launch=run_in_process)
    assert heard.notes == ["resuming from the checkpoint of step 5"]
    storage.download_file(f"{output}/{METRICS}", tmp_path / "remote" / METRICS)
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
    assert storage.read_bytes(f"{output}/model.safetensors") == (tmp_path / "local/model.safetensors").read_bytes()
    for file in result.files:
        check_content(output, file)


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
