"""Rows come out of every kind of file as they went in, and damage costs what is damaged alone."""

import bz2
import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cluster.contracts.errors import InputError
from training.conversations import files
from training.conversations.file_names import file_format
from training.conversations.files import FileRange, FileRow, read_rows
from training.conversations.ranges import first_lines, input_files, plan_shards

ROWS = [{"question": f"What is {n}, “it”,\nreally?", "answer": f"{n}; a\ttab"} for n in range(700)]


def json_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def separated(delimiter: str) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return sink.getvalue().encode()


def parquet(rows: list[Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def arrow(open_sink: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), io.BytesIO()
    with open_sink(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    return sink.getvalue()


def read(path: Path) -> list[FileRow]:
    return list(read_rows(FileRange(str(path), *file_format(str(path)))))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", json_lines(ROWS)),
        ("rows.ndjson", json_lines(ROWS).replace(b"\n", b"\r\n\r\n")),
        ("bom.jsonl", b"\xef\xbb\xbf" + json_lines(ROWS)),
        ("rows.jsonl.gz", gzip.compress(json_lines(ROWS[:300])) + gzip.compress(json_lines(ROWS[300:]))),
        ("rows.jsonl.zst", zstandard.compress(json_lines(ROWS))),
        ("rows.json.bz2", bz2.compress(json.dumps(ROWS).encode())),
        ("rows.json", json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
        ("bom.json", b"\xef\xbb\xbf\n" + json.dumps(ROWS).encode()),
        ("lines.json", json_lines(ROWS)),
        ("rows.parquet", parquet(ROWS, row_group_size=123)),
        ("rows.arrow", arrow(pa.ipc.new_stream)),
        ("file.arrow", arrow(pa.ipc.new_file)),
        ("rows.csv", separated(",")),
        ("rows.tsv.gz", gzip.compress(separated("\t"))),
        ("excel.csv", b"\xef\xbb\xbf" + separated(",")),
    ],
)
def test_rows_of_every_file_are_those_that_were_written(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [row.row for row in read(tmp_path / name)] == ROWS


def test_chunks_of_any_size_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (
        ("a.jsonl", json_lines(ROWS[:40])), ("a.json", json.dumps(ROWS[:40], ensure_ascii=False).encode()),
        ("a.csv", separated(",")[:1200].rpartition(b"\r\n")[0]),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        whole = read(tmp_path / name)
        for size in (1, 2, 3, 7, 64):
            with monkeypatch.context() as patch:
                patch.setattr("cluster.contracts.compression.CHUNK_BYTES", size)
                assert read(tmp_path / name) == whole


@pytest.mark.parametrize("range_bytes", [1, 17, 100, 1000, 9000])
def test_ranges_hold_every_line_once_and_count_lines_from_the_files_beginning(tmp_path: Path, range_bytes: int) -> None:
    draw = random.Random(range_bytes)
    lines = [json.dumps({"n": n, "text": "é" * draw.randrange(60)}) for n in range(150)]
    lines = [line for each in lines for line in [each, *[""] * draw.choice([0, 0, 3])]]
    lines[31] = "{broken"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    shards = plan_shards("", [str(path)], None, range_bytes=range_bytes)
    found, counted = {}, {}
    for shard in shards:
        count: list[int] = []
        found[shard.key] = list(read_rows(shard.source, count_lines=count.append))
        counted[shard.key] = sum(count)
    before = first_lines(shards, counted)
    rows = [(row, row.line + before[key]) for key, of_range in found.items() for row in of_range]
    whole = read(path)
    assert [(row.offset, row.row, row.reason, row.detail, line) for row, line in rows] == [
        (row.offset, row.row, row.reason, row.detail, row.line) for row in whole
    ]
    assert sum(counted.values()) == len(lines)
    for row, line in rows:
        assert path.read_bytes()[row.offset :].startswith(lines[line - 1].encode())


@pytest.mark.parametrize("range_bytes", [1, 500, 5000])
def test_ranges_of_parquet_hold_every_row_once(tmp_path: Path, range_bytes: int) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet(ROWS, row_group_size=50))
    shards = plan_shards("", [str(path)], None, range_bytes=range_bytes)
    assert len(shards) > 1
    rows = [row for shard in shards for row in read_rows(shard.source)]
    assert [(row.offset, row.row) for row in rows] == list(enumerate(ROWS))


def test_what_arrow_fills_in_is_left_out(tmp_path: Path) -> None:
    # TRL 5118: rows of one column share a schema, so that calls have the keys of all other calls, as null.
    rows = [{"m": [{"f": {"a": 1}}], "n": None}, {"m": [{"f": {"b": "x"}}], "n": "y"}]
    (tmp_path / "rows.parquet").write_bytes(parquet(rows))
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() != rows
    assert [row.row for row in read(tmp_path / "rows.parquet")] == rows


@pytest.mark.parametrize("codec", ["gz", "zst", "bz2"])
def test_of_a_truncated_file_the_rows_before_the_end_stay(tmp_path: Path, codec: str) -> None:
    compress = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress}[codec]
    noise = random.Random(0)
    rows = [{"n": n, "text": noise.randbytes(400).hex()} for n in range(3000)]
    content = compress(json_lines(rows))
    path = tmp_path / f"rows.jsonl.{codec}"
    path.write_bytes(content[: len(content) * 3 // 4])
    found = read(path)
    assert [row.row for row in found[:-1]] == rows[: len(found) - 1]
    assert len(found) > 500
    last = found[-1]
    assert last.reason == f"truncated_{codec}"
    assert last.line == len(found)
    assert json_lines(rows)[last.offset :].startswith(json.dumps(rows[len(found) - 1]).encode())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"n": 1}\n{"n": 2\n{"n": 3}\n', [1, "bad_json", 3]),
        ("a.jsonl", b'{"n": 1}\n{"n": "\xff"}\n{"n": 3}\n', [1, "bad_json", 3]),
        ("a.jsonl", b'{"n": 1}\n{"n": NaN}\n{"n": "\\ud800"}', [1, "bad_json", "bad_json"]),
        ("a.json", b'[{"n": 1}, {"n": NaN}, {"n": 3}]', [1, "bad_json", 3]),
        ("a.json", b'[{"n": 1}, {"n": 2', [1, "bad_json"]),
        ("a.json", b'[{"n": 1}, {"n": "\xff"}]', ["bad_utf8"]),
        ("a.json", b"", []),
        ("a.json", b" [] ", []),
        ("a.csv", b'n,m\n1,2\n3\n4,"5\n6"\n"7"8,9\n10,11\n', ["1", "wrong_number_of_cells", "4", "bad_csv", "10"]),
        ("a.csv", b'n,m\n1,2\n"3,4\n5,6\n', ["1", "bad_csv"]),
        ("a.csv", b"n,n\n1,2\n", ["bad_header"]),
        ("a.csv", b"n\n1\n\xff\n", ["bad_utf8"]),
        ("a.parquet", b"PAR1 and no more", ["bad_parquet"]),
        ("a.arrow", b"no arrow", ["bad_arrow"]),
        ("a.jsonl.gz", b"no gzip", ["corrupt_gz"]),
    ],
)
def test_damage_is_named_where_it_is(tmp_path: Path, name: str, content: bytes, expected: list[Any]) -> None:
    (tmp_path / name).write_bytes(content)
    assert [row.reason or row.row["n"] for row in read(tmp_path / name)] == expected


def test_a_row_beyond_all_measure_is_quarantined_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr("cluster.contracts.compression.CHUNK_BYTES", 64)
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"n": 1}, {"n": "x" * 1000}, {"n": 3}]))
    assert [(row.reason or row.row["n"], row.line) for row in read(tmp_path / "a.jsonl")] == [
        (1, 1), ("row_too_large", 2), (3, 3),
    ]  # fmt: skip
    (tmp_path / "a.json").write_bytes(json.dumps([{"n": 1}, {"n": "x" * 1000}, {"n": 3}]).encode())
    assert [row.reason or row.row["n"] for row in read(tmp_path / "a.json")] == [1, "row_too_large"]


def test_one_bad_text_of_a_parquet_file_costs_its_row(tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(3, pa.array([0, 1, 3, 4], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff\xfeb"))
    pq.write_table(pa.table({"n": texts}), tmp_path / "a.parquet")
    assert [row.reason or row.row["n"] for row in read(tmp_path / "a.parquet")] == ["a", "bad_utf8", "b"]


def test_a_file_is_read_once_however_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    spellings = ["data/a.jsonl", "data", "data/*.jsonl", "data/../data/./a.jsonl", "link/a.jsonl"]
    named = [str(tmp_path / spelling) for spelling in spellings] + [f"file://{tmp_path}/data/a.jsonl"]
    assert len(input_files(named)) == 1


def test_what_datasets_lays_beside_its_rows_is_no_row(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (file,) = input_files([str(tmp_path / "saved")])
    assert [row.row for row in read(Path(file.uri))] == ROWS


def test_names_that_tell_no_format_are_refused() -> None:
    for name in ("a.txt", "README", "a.parquet.gz"):
        with pytest.raises(InputError, match="unknown format"):
            file_format(name)
    assert file_format("a.txt.zst", "jsonl") == ("jsonl", "zst")
