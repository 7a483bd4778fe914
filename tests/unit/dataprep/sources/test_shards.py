"""Shards: every record of a file lies in exactly one range, whatever the ranges; packs and keys are stable."""

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts import storage
from cluster.contracts.errors import InputError
from cluster.contracts.storage import FileStat
from dataprep.sources.config import Columns
from dataprep.sources.formats import format_of
from dataprep.sources.jsonl import read_jsonl
from dataprep.sources.readers import read_records
from dataprep.sources.records import SourceRecord
from dataprep.sources.shards import plan_shards, sources_of, whole_file


def read_all(directory: Path, range_bytes: int) -> list[SourceRecord]:
    shards = plan_shards(storage.expand(str(directory)), range_bytes=range_bytes)
    return [
        record
        for shard in shards
        for source in sources_of(shard.to_row())
        for record in read_records(source, columns=Columns(), max_record_bytes=1000)
    ]


def odd_lines(rng: random.Random) -> bytes:
    kinds: list[bytes] = [
        b'{"text": "short"}',
        b'{"text": "%s"}' % (b"l" * 300),
        b"",
        b"{broken",
        b'{"text": "%s"}' % (b"too large" * 400),
        b" ",
        '{"text": "größer"}'.encode(),
    ]
    end = rng.choice([b"", b"\n"])
    return b"\n".join(rng.choice(kinds) for _ in range(rng.randrange(1, 30))) + end


@pytest.mark.parametrize("seed", range(5))
def test_ranges_of_any_size_hold_every_line_once_and_in_order(seed: int, tmp_path: Path) -> None:
    content = odd_lines(random.Random(seed))
    (tmp_path / "a.jsonl").write_bytes(content)
    whole = list(
        read_jsonl(io.BytesIO(content), str(tmp_path / "a.jsonl"), codec=None, columns=Columns(), max_record_bytes=1000)
    )
    for range_bytes in (1, 2, 3, 7, 50, 301, 1000, 5000):
        assert read_all(tmp_path, range_bytes) == whole, range_bytes


def test_a_range_inside_a_long_line_reads_no_further_than_its_end() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            chunk = super().read(size)
            self.taken += len(chunk)
            return chunk

    stream = Counting(b"x" * 20_000_000)
    assert list(read_jsonl(stream, "j", codec=None, columns=Columns(), max_record_bytes=10, start=1000, end=2000)) == []
    assert stream.taken < 3_000_000


def test_ranges_of_a_parquet_file_hold_every_row_once_with_its_number(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {i} " * 20 for i in range(100)], "url": [f"u{i}" for i in range(100)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7, compression="none")
    whole = read_all(tmp_path, 1 << 30)
    assert [r.provenance.offset for r in whole] == list(range(100))  # type: ignore[union-attr]
    assert [r.provenance.url for r in whole] == table["url"].to_pylist()  # type: ignore[union-attr]
    for range_bytes in (100, 999, 5000):
        assert read_all(tmp_path, range_bytes) == whole
    assert len(plan_shards(storage.expand(str(tmp_path)), range_bytes=5000)) > 3


def stats(*names: str, size: int = 10) -> list[FileStat]:
    return [FileStat(f"s3://b/{name}", size, 1) for name in names]


def test_small_files_of_one_document_are_packed_and_one_more_changes_one_pack() -> None:
    names = [f"pages/{i:05}.html" for i in range(5000)]
    before = plan_shards(stats(*names, "notes.txt", "rows.jsonl"))
    packed = [source.uri for shard in before for source in shard.sources if source.format == "html"]
    assert packed == [f"s3://b/{name}" for name in names], "in order, each once"
    packs = [shard for shard in before if len(shard.sources) > 1]
    assert 3 <= len(packs) <= 10
    after = plan_shards(stats(*names, "notes.txt", "rows.jsonl", "pages/00003a.html"))
    assert len({s.key for s in before} - {s.key for s in after}) == 1


def test_files_of_different_inputs_are_not_packed_together_and_count_under_their_inputs_directory() -> None:
    files = stats("a/x/1.html", "a/2.html", "b/1.html", "b/part.jsonl")
    directories = {file.uri: file.uri[: len("s3://b/a")] for file in files}
    packed = plan_shards(files, directories=directories)
    assert [shard.source for shard in packed] == ["s3://b/a", "s3://b/b", "s3://b/b/part.jsonl"]
    assert [len(shard.sources) for shard in packed] == [2, 1, 1]
    together = plan_shards(files)
    assert [shard.source for shard in together] == ["s3://b", "s3://b/b/part.jsonl"]


def test_keys_name_the_range_and_differ_for_another_range_or_version() -> None:
    (file,) = stats("a.jsonl", size=1000)
    keys = [shard.key for shard in plan_shards([file], range_bytes=400)]
    assert [key.rsplit(".", 1)[1] for key in keys] == ["0-400", "400-800", "800-1000"]
    assert not set(keys) & {s.key for s in plan_shards([FileStat(file.uri, 1000, 2)], range_bytes=400)}
    (one,) = plan_shards(stats("a.jsonl.gz", size=1000), range_bytes=400)
    assert one.sources == (whole_file("s3://b/a.jsonl.gz"),), "compressed files can't be entered in the middle"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s3://bucket/a.WARC.gz", ("warc", "gz")),
        ("CC-MAIN-1.warc.wet.gz", ("warc", "gz")),
        ("a.warc.zst", ("warc", "zst")),
        ("/data/x.y.jsonl.zst", ("jsonl", "zst")),
        ("a.parquet", ("parquet", None)),
        ("index.htm", ("html", None)),
        ("a.txt.bz2", ("text", "bz2")),
        ("enwiki-pages-articles.xml.bz2", ("mediawiki", "bz2")),
    ],
)
def test_formats_go_by_name(name: str, expected: tuple[str, Any]) -> None:
    assert format_of(name) == expected


def test_a_format_can_be_forced_and_what_cannot_be_read_is_refused() -> None:
    assert format_of("c4-train.00000.json.gz", "jsonl") == ("jsonl", "gz")
    assert format_of("part-0", "parquet") == ("parquet", None)
    assert format_of("repo/CMakeLists.txt", "code") == format_of("repo/a.tar.gz", "code") == ("code", None)
    for unknown in ("a.csv", "jsonl", "a.gz", "convert.py"):
        with pytest.raises(InputError, match="unknown format; a name must end in"):
            format_of(unknown)
    with pytest.raises(InputError, match=r"warc files can't be compressed as \.bz2"):
        format_of("a.warc.bz2")
    with pytest.raises(InputError, match="allowed: none"):
        format_of("a.parquet.gz")
