"""A part is there whole or not at all."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts import storage
from cluster.contracts.commit import (
    check_content,
    check_size,
    commit_part,
    committed_part,
    committed_parts,
    remove_part,
    sweep,
)
from cluster.contracts.errors import CorruptArtifact


def test_committed_file_has_the_size_and_checksum_of_its_content(tmp_path: Path) -> None:
    with commit_part(str(tmp_path), "a") as part, part.open("data", "bin") as sink:
        sink.write(b"hello ")
        sink.write(b"world")
    file = committed_part(str(tmp_path), "a").files["data"]  # type: ignore[union-attr]
    assert (tmp_path / file.name).read_bytes() == b"hello world"
    assert file.size == 11
    assert file.sha256 == hashlib.sha256(b"hello world").hexdigest()


def test_pyarrow_writes_parquet_through_the_hashing_stream(tmp_path: Path) -> None:
    table = pa.table({"x": list(range(1000))})
    with commit_part(str(tmp_path), "a") as part, part.open("rows", "parquet") as sink:
        pq.write_table(table, sink)
    file = committed_parts(str(tmp_path))["a"].files["rows"]
    assert pq.read_table(tmp_path / file.name).equals(table)
    assert hashlib.sha256((tmp_path / file.name).read_bytes()).hexdigest() == file.sha256


def test_an_exception_half_way_commits_nothing_and_sweep_removes_the_rest(tmp_path: Path) -> None:
    def write_half() -> None:
        with commit_part(str(tmp_path), "a") as part, part.open("data", "bin") as sink:
            sink.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert committed_parts(str(tmp_path)) == {}
    assert len(sweep(str(tmp_path))) == 1
    assert [f.name for f in tmp_path.iterdir()] == []


def test_a_second_attempt_wins_and_the_first_ones_file_is_swept(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        with commit_part(str(tmp_path), "a") as part, part.open("data", "bin") as sink:
            sink.write(content)
    sweep(str(tmp_path))
    file = committed_parts(str(tmp_path))["a"].files["data"]
    assert (tmp_path / file.name).read_bytes() == b"second"
    assert len(storage.list_files(str(tmp_path))) == 1


def test_a_changed_byte_is_found_by_content_and_a_cut_file_by_size(tmp_path: Path) -> None:
    with commit_part(str(tmp_path), "a") as part, part.open("data", "bin") as sink:
        sink.write(b"hello")
    file = committed_parts(str(tmp_path))["a"].files["data"]
    (tmp_path / file.name).write_bytes(b"jello")
    check_size(str(tmp_path), file)
    with pytest.raises(CorruptArtifact, match="SHA-256"):
        check_content(str(tmp_path), file)
    (tmp_path / file.name).write_bytes(b"hell")
    with pytest.raises(CorruptArtifact, match="4 bytes"):
        check_size(str(tmp_path), file)
    (tmp_path / file.name).unlink()
    with pytest.raises(CorruptArtifact, match="missing"):
        check_size(str(tmp_path), file)


def test_a_removed_part_is_gone(tmp_path: Path) -> None:
    with commit_part(str(tmp_path), "a") as part, part.open("data", "bin") as sink:
        sink.write(b"x")
    remove_part(str(tmp_path), "a")
    assert committed_part(str(tmp_path), "a") is None
    assert storage.list_files(str(tmp_path)) == []


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_key_that_could_leave_the_directory_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="part key"), commit_part(str(tmp_path), key):
        pass


def test_two_files_of_a_part_may_not_share_a_name(tmp_path: Path) -> None:
    with commit_part(str(tmp_path), "unit") as part:
        with part.open("first", "txt") as sink:
            sink.write(b"x")
        with pytest.raises(ValueError, match="ends in 'txt' already"), part.open("second", "txt"):
            pass
    committed = committed_part(str(tmp_path), "unit")
    assert committed is not None
    assert set(committed.files) == {"first"}
