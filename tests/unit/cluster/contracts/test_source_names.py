"""Names of sources: as short as tells them apart, and found by patterns of their ends."""

from cluster.contracts.source_names import common_directory, fits, input_directories, short_names


def test_names_leave_out_the_directories_that_all_share_and_stay_different() -> None:
    assert short_names(["/data/x.jsonl"]) == {"/data/x.jsonl": "x.jsonl"}
    two = ["s3://b/crawl/a/part-0.jsonl", "s3://b/crawl/b/part-0.jsonl", "s3://b/crawl/notes"]
    assert list(short_names(two).values()) == ["a/part-0.jsonl", "b/part-0.jsonl", "notes"]
    assert list(short_names(["/d/notes", "/d/notes/x"]).values()) == ["notes", "notes/x"]
    apart = ["/data/x", "s3://b/x", ""]
    assert list(short_names(apart).values()) == apart


def test_patterns_are_of_the_name_or_of_the_path_from_some_directory_on() -> None:
    source = "s3://b/crawl/a/part-0.jsonl"
    for pattern in (
        "part-*", "a/*", "a/part-0.jsonl", "s3://b/*", "*.jsonl", "crawl/*", "crawl/", "s3://b/", "s3://b/**/*.jsonl",
        "crawl/**/part-*", "crawl/**", "**", "*/part-0.jsonl", "s3://b/*/*/*.jsonl",
    ):  # fmt: skip
        assert fits(source, pattern), pattern
    for pattern in (
        "art-*",
        "b/part-0.jsonl",
        "a",
        "/a/*",
        "crawl*",
        "cr*",
        "s3://b/part-*",
        "*/b/part-*",
        "b/a/*",
        "crawl/*.jsonl",
    ):
        assert not fits(source, pattern), pattern
    assert fits("/d/books", "books/*")  # of small files that were packed together
    assert fits("/d/books", "books")
    assert not fits("books", "/d/books")


def test_a_directory_of_a_like_name_gives_its_files_to_no_pattern_of_names() -> None:
    assert [fits(f"/srv/web-crawls/raw/{name}.jsonl", "web-*") for name in ("web-1", "books-1")] == [True, False]


def test_a_file_is_of_the_first_input_that_matches_it() -> None:
    matched = [["/d/a/1", "/d/a/2"], ["/d/a/2", "/d/b/3"], []]
    assert input_directories(matched) == {"/d/a/1": "/d/a", "/d/a/2": "/d/a", "/d/b/3": "/d"}


def test_the_common_directory_holds_all_files() -> None:
    assert common_directory(["/d/a/1", "/d/ab/2"]) == "/d"
    assert common_directory(["/d/a/1"]) == "/d/a"
    assert common_directory(["/1", "/d/2"]) == "/"
    assert common_directory(["s3://b/x/1", "s3://b/y/2"]) == "s3://b"
