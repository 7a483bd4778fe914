"""The shard table: round trips, movable, and the numbering that makes doc_ids."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.contracts import records
from cluster.contracts.errors import CorruptArtifact, InputError
from dataprep.documents import (
    absolute_uri,
    doc_ids,
    read_columns,
    read_kept,
    read_shard_table,
    rebase,
    relative_uri,
    written_file,
)
from tests.unit.dataprep.small_documents import write_documents


def kept_texts(artifact: str) -> list[tuple[str, int]]:
    return [
        (text, row)
        for shard in read_shard_table(artifact)
        for batch, rows in read_kept(artifact, shard, ["text"])
        for text, row in zip(batch.column("text").to_pylist(), rows.tolist(), strict=True)
    ]


def test_the_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    artifact, shards = write_documents(tmp_path, [["a", "b"], [], ["c"]], removed=[[1], [], []])
    assert read_shard_table(artifact) == shards


def test_removed_rows_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    artifact, _ = write_documents(tmp_path, [["a", "b", "c"], ["d"]], removed=[[0, 2], []])
    assert kept_texts(artifact) == [("b", 1), ("d", 0)]


def test_a_storage_directory_can_be_moved(tmp_path: Path) -> None:
    artifact, _ = write_documents(tmp_path / "old", [["a"]])
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert kept_texts(artifact.replace("/old/", "/new/")) == [("a", 0)]


def test_a_cut_part_is_told_and_not_read(tmp_path: Path) -> None:
    artifact, shards = write_documents(tmp_path, [["a"]])
    documents = Path(absolute_uri(shards[0].parts, base=artifact)) / shards[0].documents.name
    documents.write_bytes(documents.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact, match="bytes"):
        kept_texts(artifact)


def test_a_directory_without_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no documents"):
        read_shard_table(str(tmp_path))


@pytest.mark.parametrize(
    ("uri", "base", "relative"),
    [
        ("s3://b/run/parts/clean/1", "s3://b/run/dedupe/2", "../../parts/clean/1"),
        ("s3://b/parts", "s3://other/dedupe", "s3://b/parts"),
        ("/data/parts", "s3://b/dedupe", "/data/parts"),
        ("/data/run/parts", "/data/run/clean/1", "../../parts"),
    ],
)
def test_relative_uris_resolve_to_where_they_came_from(uri: str, base: str, relative: str) -> None:
    assert relative_uri(uri, base=base) == relative
    assert absolute_uri(relative, base=base) == uri


def test_a_shard_seen_from_another_artifact_points_to_the_same_parts(tmp_path: Path) -> None:
    artifact, (shard,) = write_documents(tmp_path, [["a"]])
    elsewhere = str(tmp_path / "deeper" / "tokens" / "1")
    moved = rebase(shard, old=artifact, new=elsewhere)
    assert absolute_uri(moved.parts, base=elsewhere) == absolute_uri(shard.parts, base=artifact)


def test_doc_ids_of_many_rows_are_those_of_each() -> None:
    rows = np.array([0, 1, 5])
    assert doc_ids(3, rows).tolist() == [records.doc_id(3, int(row)) for row in rows]


def test_no_batch_of_kept_documents_spans_row_groups(tmp_path: Path) -> None:
    artifact, (shard,) = write_documents(tmp_path, [[f"text {row}" for row in range(10)]], removed=[[4]])
    sink = pa.BufferOutputStream()
    pq.write_table(read_columns(artifact, shard, ["text"]), sink, row_group_size=3)
    content = sink.getvalue().to_pybytes()
    (tmp_path / "parts" / "clean" / "grouped").write_bytes(content)
    grouped = replace(shard, documents=written_file("grouped", content))
    rows = [rows.tolist() for _, rows in read_kept(artifact, grouped, ["text"])]
    assert rows == [[0, 1, 2], [3, 5], [6, 7, 8], [9]]
