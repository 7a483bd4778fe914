"""Parquet: mapped columns only, every row accounted for, a file of another kind is one quarantined record."""

import random
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts.records import Quarantined
from dataprep.sources.config import Columns
from dataprep.sources.parquet import read_parquet
from dataprep.sources.parquet_footer import footer_trial
from dataprep.sources.records import PlainText, SourceRecord
from tests.unit.dataprep import risky_work


def read(path: Path, limit: int = 1000, **columns: Any) -> list[SourceRecord]:
    with pa.OSFile(str(path)) as file:
        return list(read_parquet(file, "p", columns=Columns(**columns), max_record_bytes=limit))


def outcomes(records: list[SourceRecord]) -> list[Any]:
    return [r.text if isinstance(r, PlainText) else (r.offset, r.reason) for r in records]  # type: ignore[union-attr]


def test_columns_are_mapped_and_values_become_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "content": pa.array(["eins", "zwei"]).dictionary_encode(),
            "when": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None],
            "link": ["https://a.example", "https://b.example"],
            "title": [{"nested": 1}, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet", text="content", url="link", date="when")
    assert isinstance(first, PlainText)
    assert (first.text, first.provenance.url) == ("eins", "https://a.example")
    assert (first.provenance.date, first.provenance.title) == ("2026-01-02T03:04:05Z", None)
    assert isinstance(second, PlainText)
    assert second.provenance.date is None


def test_bad_rows_are_quarantined_by_their_number(tmp_path: Path) -> None:
    raw = pa.array([b"good", None, b"bad \xff", b"l" * 1001, b"sur \xed\xa0\x80", b"end"], pa.binary())
    texts = pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=4)
    assert outcomes(read(tmp_path / "a.parquet")) == [
        "good", (1, "missing_text"), (2, "bad_utf8"), (3, "record_too_large"), (4, "bad_utf8"), "end"
    ]  # fmt: skip


def test_one_bad_url_leaves_the_others_of_its_batch(tmp_path: Path) -> None:
    raw = pa.array([b"https://a.example", b"bad \xff", None, b"https://b.example"], pa.binary())
    urls = pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pq.write_table(pa.table({"text": list("abcd"), "url": urls}), tmp_path / "a.parquet")
    found = [r.provenance.url for r in read(tmp_path / "a.parquet", url="url") if isinstance(r, PlainText)]
    assert found == ["https://a.example", None, None, "https://b.example"]


def test_columns_of_one_name_are_one_quarantined_record(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert outcomes(read(tmp_path / "a.parquet")) == [(-1, "bad_parquet")]
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["text", "url", "url"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert outcomes(read(tmp_path / "a.parquet", url="url")) == [(-1, "bad_parquet")]


def test_numbers_and_binary_values_are_provenance_too(tmp_path: Path) -> None:
    numbers = pa.array([1, 2]).dictionary_encode()
    table = pa.table({"text": ["a", "b"], "url": numbers, "date": [b"2026", b"\xff"], "title": [1.5, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = [r.provenance for r in read(tmp_path / "a.parquet", url="url", date="date") if isinstance(r, PlainText)]
    assert [(p.url, p.date, p.title) for p in found] == [("1", "2026", "1.5"), ("2", None, None)]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pa.table({"body": ["x"]}), "missing_column"),
        (pa.table({}), "missing_column"),
        (pa.table({"text": [1, 2, 3]}), "text_not_a_string"),
        (pa.table({"text": [["a"], ["b"]]}), "text_not_a_string"),
    ],
)
def test_another_schema_is_one_quarantined_record(table: pa.Table, reason: str, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    assert outcomes(read(tmp_path / "a.parquet")) == [(-1, reason)]


def test_a_damaged_file_is_quarantined_and_its_sound_row_groups_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{i} " + "word " * 150 for i in range(60)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=20, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[middle : middle + 60] = b"\xff" * 60
    path.write_bytes(bytes(content))
    texts = table["text"].to_pylist()
    assert outcomes(read(path)) == [*texts[:20], (20, "bad_row_group"), *texts[40:]]
    path.write_bytes(bytes(content[:-100]))
    assert outcomes(read(path)) == [(-1, "bad_parquet")]
    path.write_bytes(b"no parquet at all")
    assert outcomes(read(path)) == [(-1, "bad_parquet")]


def test_long_texts_are_read_few_at_a_time(tmp_path: Path) -> None:
    texts = [str(i) * 4_000_000 for i in range(1, 10)] * 8
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False, write_batch_size=1)
    before = pa.total_allocated_bytes()
    peak, offsets = 0, []
    with pa.OSFile(str(tmp_path / "a.parquet")) as file:
        for record in read_parquet(file, "p", columns=Columns(), max_record_bytes=10**7):
            assert isinstance(record, PlainText)
            offsets.append(record.provenance.offset)
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert offsets == list(range(72))
    assert peak < 150_000_000, "of 288 million bytes"


def test_a_text_that_a_small_file_repeats_is_read_few_rows_at_a_time(tmp_path: Path) -> None:
    text = "x" * (1 << 20)
    rows = pa.array([text, None, *["short"] * 3, *[text] * 300])
    pq.write_table(pa.table({"text": rows, "url": rows}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pa.OSFile(str(tmp_path / "a.parquet")) as file:
        tracemalloc.start()
        try:
            records = read_parquet(file, "p", columns=Columns(), max_record_bytes=len(text))
            lengths = [len(r.text) if isinstance(r, PlainText) else (r.offset, r.reason) for r in records]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert lengths == [len(text), (1, "missing_text"), 5, 5, 5, *[len(text)] * 300]
    assert peak < 150 << 20  # not the 600 MB that the rows take


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.list_(pa.string())])
def test_so_is_what_its_other_columns_repeat(kind: pa.DataType, tmp_path: Path) -> None:
    value = "x" * 900_000
    titles = pa.array([[value] if pa.types.is_list(kind) else value] * 1000, kind)
    pq.write_table(pa.table({"text": ["t"] * 1000, "title": titles}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    before = pa.total_allocated_bytes()
    peak = 0
    with pa.OSFile(str(tmp_path / "a.parquet")) as file:
        for record in read_parquet(file, "p", columns=Columns(), max_record_bytes=1000):
            assert isinstance(record, PlainText)
            assert record.provenance.title == (None if pa.types.is_list(kind) else value)
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert record.provenance.offset == 999
    assert peak < 100 << 20


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
@pytest.mark.parametrize("column", ["text", "url"])
def test_every_encoding_of_texts_is_read(column: str, encoding: str, version: str, tmp_path: Path) -> None:
    texts, urls = [f"text {n}" for n in range(90)], [f"http://a/{n}" for n in range(90)]
    pq.write_table(
        pa.table({"text": texts, "url": urls}), tmp_path / "a.parquet", use_dictionary=False,
        column_encoding={column: encoding}, data_page_version=version,
    )  # fmt: skip
    found = read(tmp_path / "a.parquet", url="url")
    assert [(r.text, r.provenance.url) for r in found if isinstance(r, PlainText)] == list(
        zip(texts, urls, strict=True)
    )


def test_a_store_that_fails_is_an_error_and_no_quarantine(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x " * 300] * 50}), tmp_path / "a.parquet")

    class Failing:
        """A file whose store goes away after the footer was read."""

        closed = False

        def __init__(self) -> None:
            self.file, self.reads = open(tmp_path / "a.parquet", "rb"), 0  # noqa: SIM115

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise OSError("the store went away")
            return self.file.read(size)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with pytest.raises(OSError, match="went away"):
        list(read_parquet(pa.PythonFile(Failing(), mode="r"), "p", columns=Columns(), max_record_bytes=1000))


def small_file(rows: int = 300) -> bytes:
    sink = pa.BufferOutputStream()
    texts = [f"document {n} " + "word " * (n % 50) for n in range(rows)]
    urls = [f"http://a/{n}" for n in range(rows)]
    table = pa.table({"text": texts, "url": urls, "date": pa.nulls(rows), "title": ["t"] * rows})
    pq.write_table(table, sink, row_group_size=100, compression="zstd")
    return sink.getvalue().to_pybytes()


def with_changed_footer(content: bytes, rng: random.Random) -> bytes:
    """The file with one to four bytes of its footer changed."""
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(footer, len(content) - 8)] = rng.randrange(256)
    return bytes(changed)


def read_bytes(content: bytes) -> list[SourceRecord]:
    return list(read_parquet(pa.BufferReader(content), "p", columns=Columns(), max_record_bytes=1000))


def test_a_file_at_which_the_library_ends_its_process_is_one_quarantined_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = small_file()
    footer_trial.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("dataprep.sources.parquet_footer._open", risky_work.end_process_at_other_footers)
        (record,) = read_bytes(sound)
    footer_trial.cache_clear()
    assert isinstance(record, Quarantined)
    assert (record.offset, record.reason) == (-1, "bad_parquet")
    assert "SIGABRT" in record.detail
    assert len(read_bytes(sound)) == 300


def test_no_change_of_a_footer_ends_the_process_or_the_reading() -> None:
    # Arrow 26 answers three or so of these with std::terminate: where the size of a histogram is wrong.
    content, rng = small_file(), random.Random(0)
    for _ in range(1500):
        records = read_bytes(with_changed_footer(content, rng))
        assert all(isinstance(record, PlainText | Quarantined) for record in records)
