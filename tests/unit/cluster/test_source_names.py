"""Names of sources: as short as tells them apart, and found by patterns of their ends."""

from cluster.contracts.source_names import common_directory, fits, short_names


def test_names_leave_out_the_directories_that_all_share_and_stay_different() -> None:
    assert short_names(["/data/x.jsonl"]) == {"/data/x.jsonl": "x.jsonl"}
    two = ["s3://b/crawl/a/part-0.jsonl", "s3://b/crawl/b/part-0.jsonl", "s3://b/crawl/notes"]
    assert list(short_names(two).values()) == ["a/part-0.jsonl", "b/part-0.jsonl", "notes"]
    assert list(short_names(["/d/notes", "/d/notes/x"]).values()) == ["notes", "notes/x"]
    apart = ["/data/x", "s3://b/x", ""]
    assert list(short_names(apart).values()) == apart


def test_patterns_are_of_the_name_or_of_the_path_from_some_directory_on() -> None:
    source = "s3://b/crawl/a/part-0.jsonl"
    for pattern in ("part-*", "a/*", "a/part-0.jsonl", "s3://b/*", "*.jsonl", "crawl/*"):
        assert fits(source, pattern), pattern
    for pattern in ("art-*", "b/part-0.jsonl", "a", "/a/*"):
        assert not fits(source, pattern), pattern


def test_the_common_directory_holds_all_files() -> None:
    assert common_directory(["/d/a/1", "/d/ab/2"]) == "/d"
    assert common_directory(["/d/a/1"]) == "/d/a"
    assert common_directory(["/1", "/d/2"]) == "/"
    assert common_directory(["s3://b/x/1", "s3://b/y/2"]) == "s3://b"
