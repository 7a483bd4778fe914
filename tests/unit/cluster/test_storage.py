"""URIs are joined, listed and globbed alike wherever they point."""

from pathlib import Path

import pytest

from cluster.contracts import storage


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
