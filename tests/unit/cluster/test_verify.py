"""Full checksums: every bad file is named, in a run, an artifact and a mixture's shards, and nothing else is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.contracts import storage
from cluster.contracts.artifacts import Manifest, write_manifest
from cluster.contracts.commit import WrittenFile
from cluster.contracts.errors import InputError
from cluster.contracts.retry import Backoff
from cluster.contracts.tokens import INDEX, ShardEntry, write_token_index
from cluster.run_record import RunRecord, RunStage, write_run
from cluster.verify import artifacts_of, bad_files, expected_files
from dataprep.documents import Shard, write_shard_table


def written(directory: Path, name: str, content: bytes) -> WrittenFile:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)
    return WrittenFile(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a tokens artifact with three shards, and of a mixture that names two of them."""
    tokens, mixture = tmp_path / "tokenize" / "t1", tmp_path / "mixture" / "m1"
    files = [written(tokens, f"{n}.arrow", bytes([n]) * (3 << 20)) for n in range(3)]
    write_manifest(str(tokens), Manifest("tokenize", "t1", {}, {}), files)
    rows = [ShardEntry(f.name, f.size, f.sha256, 1, 1, directory="../../tokenize/t1") for f in files[1:]]
    mixture.mkdir(parents=True)
    index = write_token_index(str(mixture), rows)
    listed = WrittenFile(INDEX, len(index), hashlib.sha256(index).hexdigest())
    write_manifest(str(mixture), Manifest("mixture", "m1", {}, {}), [listed])
    stages = {
        "tokenize": RunStage("tokenize", str(tokens), "t1", True),
        "mix": RunStage("mixture", str(mixture), "m1", True),
    }
    write_run(
        RunRecord("r", {"storage": str(tmp_path)}, {**stages, "pretrain": RunStage("pretrain", "-", "p1", False)})
    )
    return tmp_path


def bad_names(target: str, root: str) -> tuple[set[str], int]:
    """The names of what is bad, and how many bytes were read to know."""
    pieces: list[int] = []
    files, unlisted = expected_files(artifacts_of(target, root))
    found = [*unlisted, *bad_files(files, pieces.append)]
    return {bad.uri.rpartition("/")[2] for bad in found}, sum(pieces)


def test_an_untouched_run_is_good_and_each_file_is_read_once(run: Path) -> None:
    index_size = (run / "mixture" / "m1" / INDEX).stat().st_size
    assert bad_names("r", str(run)) == (set(), 3 * (3 << 20) + index_size)


def test_changed_cut_and_missing_files_are_named(run: Path) -> None:
    shards = run / "tokenize" / "t1"
    content = bytearray((shards / "0.arrow").read_bytes())
    content[2_000_000] ^= 1
    (shards / "0.arrow").write_bytes(content)
    (shards / "1.arrow").write_bytes(b"cut")
    (shards / "2.arrow").unlink()
    assert bad_names("r", str(run))[0] == {"0.arrow", "1.arrow", "2.arrow"}
    assert bad_names(str(shards), str(run))[0] == {"0.arrow", "1.arrow", "2.arrow"}
    assert bad_names(str(run / "mixture" / "m1"), str(run))[0] == {"1.arrow", "2.arrow"}
    (run / "mixture" / "m1" / "files.parquet").write_bytes(b"no list")
    assert bad_names(str(run / "mixture" / "m1"), str(run))[0] == {"files.parquet"}


def test_the_files_of_parts_that_a_shard_table_leads_to_are_read_too(tmp_path: Path) -> None:
    parts, cleaned = tmp_path / "parts" / "clean", tmp_path / "clean" / "c1"
    roles = ("documents", "signatures", "dropped", "quarantined")
    files = {role: written(parts, f"k.{role}.parquet", role.encode() * 1000) for role in roles}
    table = write_shard_table(str(cleaned), [Shard(0, "a", "k", "../../parts/clean", 1, 1, **files)])
    write_manifest(str(cleaned), Manifest("clean", "c1", {}, {}), [table])
    assert bad_names(str(cleaned), str(tmp_path)) == (set(), table.size + sum(file.size for file in files.values()))
    content = bytearray((parts / "k.documents.parquet").read_bytes())
    content[100] ^= 1
    (parts / "k.documents.parquet").write_bytes(content)
    (parts / "k.signatures.parquet").unlink()
    assert bad_names(str(cleaned), str(tmp_path))[0] == {"k.documents.parquet", "k.signatures.parquet"}


def test_a_local_disk_is_not_tried_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", Backoff(first_wait_s=1000))

    def failing(*_: object, **__: object) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr("cluster.verify.check_content", failing)
    (bad,) = bad_files({str(run / "x"): WrittenFile("x", 1, "")}, lambda _: None)
    assert bad.problem == "can't be read: input/output error"


def test_what_is_read_again_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def failing_once(_: str, file: WrittenFile, *, on_bytes: Callable[[int], None]) -> None:
        attempts.append(1)
        for _ in range(2 if len(attempts) == 1 else 3):
            on_bytes(file.size // 3)
        if len(attempts) == 1:
            raise OSError("503 slow down")

    monkeypatch.setattr("cluster.verify.check_content", failing_once)
    monkeypatch.setattr(storage, "PATIENCE", Backoff(first_wait_s=0.001))
    pieces: list[int] = []
    assert list(bad_files({"s3://b/x": WrittenFile("x", 300, "")}, pieces.append)) == []
    assert (len(attempts), sum(pieces)) == (2, 300)


def test_the_command_says_which_and_exits_1(run: Path) -> None:
    good = CliRunner().invoke(app, ["verify", "r", "--storage", str(run)])
    assert (good.exit_code, good.stdout) == (0, "4 files, 9 MB: all as written\n")
    (run / "tokenize" / "t1" / "1.arrow").write_bytes(b"cut")
    bad = CliRunner().invoke(app, ["verify", "r", "--storage", str(run)])
    assert bad.exit_code == 1
    assert "1.arrow has 3 bytes" in bad.stdout
    assert "4 files, 9 MB: 1 bad" in bad.stdout


def test_what_is_neither_run_nor_artifact_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        artifacts_of("absent", str(run))
