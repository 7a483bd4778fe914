"""URIs are joined, listed and globbed alike wherever they point."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact, InputError
from cluster.contracts.retry import Backoff


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("/data", ("a", "b"), "/data/a/b"),
        ("/data/", ("a",), "/data/a"),
        ("s3://bucket/key", ("a",), "s3://bucket/key/a"),
        ("s3://bucket", ("a",), "s3://bucket/a"),
        ("/data", (), "/data"),
    ],
)
def test_join(uri: str, parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(uri, *parts) == joined


def test_expand_takes_files_directories_and_globs(tmp_path: Path) -> None:
    for name in ("a.warc.gz", "b.warc.gz", "c.txt", "deep/d.warc.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def names(pattern: str) -> list[str]:
        return [f.uri.removeprefix(f"{tmp_path}/") for f in storage.expand(pattern)]

    assert names(f"{tmp_path}/a.warc.gz") == ["a.warc.gz"]
    assert names(f"{tmp_path}/*.warc.gz") == ["a.warc.gz", "b.warc.gz", "deep/d.warc.gz"]
    assert names(f"{tmp_path}/[bc].*") == ["b.warc.gz", "c.txt"]
    assert names(str(tmp_path)) == ["a.warc.gz", "b.warc.gz", "c.txt", "deep/d.warc.gz"]
    assert names(f"{tmp_path}/absent*") == []
    assert names(f"{tmp_path}/absent") == []


def test_hidden_files_are_matched_by_their_own_name_alone(tmp_path: Path) -> None:
    for name in (".git/objects/a.txt", ".hidden.txt", "deep/.b.txt", "seen.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for pattern in (str(tmp_path), f"{tmp_path}/*.txt"):
        assert [f.uri for f in storage.expand(pattern)] == [f"{tmp_path}/seen.txt"]
    assert [f.uri for f in storage.expand(f"{tmp_path}/.git/objects/*.txt")] == [f"{tmp_path}/.git/objects/a.txt"]


def test_a_list_stands_for_what_its_lines_name(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "deep/c.txt", "deep/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    uri = str(tmp_path / "inputs.list")
    Path(uri).write_text(f"# of the first crawl\n{tmp_path}/b.txt\n\n  deep  \n./a.t*\n{tmp_path}/b.txt\n")
    assert [Path(f.uri).name for f in storage.expand(uri)] == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert {f.size for f in storage.expand(uri)} == {1}
    assert storage.expand(str(tmp_path / "absent.list")) == []
    for line, problem in (
        ("gone.txt", "gone.txt does not exist"),
        ("no*", "matches no file"),
        ("x.list", "another list"),
    ):
        Path(uri).write_text(line)
        with pytest.raises(InputError, match=problem):
            storage.expand(uri)


def test_small_files_are_replaced_whole(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "x.json")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert [f.uri for f in storage.list_files(str(tmp_path / "deep"))] == [uri]


def test_local_copy_of_a_local_directory_is_itself(tmp_path: Path) -> None:
    with storage.local_copy(str(tmp_path), Path("/nowhere")) as path:
        assert path == tmp_path


def test_an_absent_directory_lists_no_files_and_an_absent_file_is_not_found(tmp_path: Path) -> None:
    assert storage.list_files(str(tmp_path / "absent")) == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError):
        storage.stat(str(tmp_path / "absent"))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": [3, 4]}), tmp_path / "t.parquet")
    assert storage.read_table(str(tmp_path / "t.parquet"), columns=["b"]).to_pydict() == {"b": [3, 4]}
    assert storage.read_table(str(tmp_path / "t.parquet"), filters=[("a", ">", 1)]).to_pydict() == {"a": [2], "b": [4]}
    with pytest.raises(CorruptArtifact, match=r"t\.parquet has no column c, d; it has a, b"):
        storage.read_table(str(tmp_path / "t.parquet"), columns=["a", "c", "d"])


def test_sizes_of_many_files_wait_for_a_remote_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("four")
    answers: list[Exception] = [OSError("503 slow down")]

    def locate(uri: str) -> tuple[pafs.FileSystem, str]:
        if answers:
            raise answers.pop()
        return pafs.LocalFileSystem(), uri.removeprefix("far://")

    monkeypatch.setattr(storage, "locate", locate)
    monkeypatch.setattr(storage, "PATIENCE", Backoff(first_wait_s=0.001))
    assert storage.file_sizes([f"far://{tmp_path}/a", f"far://{tmp_path}/b"]) == [4, None]


def test_names_that_are_not_utf8_are_refused_in_words(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "inputs")
    os.makedirs(root + b"/sub\xff")
    for name in (b"good.jsonl", b"caf\xe9.jsonl", b"sub\xff/a.jsonl"):
        with open(root + b"/" + name, "wb"):
            pass
    for pattern in (os.fsdecode(root), os.fsdecode(root + b"/*.jsonl")):
        with pytest.raises(InputError, match=r"inputs/caf\\xe9.jsonl', '.*/sub\\xff': names .* rename"):
            storage.expand(pattern)
    with pytest.raises(InputError, match=r"caf\\xe9.jsonl': the name is not UTF-8"):
        storage.expand(os.fsdecode(root + b"/caf\xe9.jsonl"))
    assert len(storage.expand(os.fsdecode(root + b"/good.jsonl"))) == 1, "what is not looked at does no harm"
