"""Documents as artifacts hold them: what a part is, and the shard table that numbers the parts.

A *part* is what one input shard became: the documents that are kept, their signatures row by row, what was dropped and
what was quarantined. Parts lie in a directory that artifacts of the same settings share. So an artifact is its *shard
table*: it is sorted by input URI and numbers the parts, and a part's number and a row in it make a document's `doc_id`.
Paths in the table are relative to the artifact, so that a storage directory can be moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.commit import PartWriter, WrittenFile, check_size
from cluster.contracts.errors import InputError
from cluster.contracts.records import QUARANTINE_SCHEMA, ROW_BITS
from cluster.contracts.storage import absolute_uri, relative_uri

SHARD_TABLE = "shards.parquet"
HEAD_CHARACTERS = 200  # how much of a dropped text is kept for people to read
_BATCH_ROWS = 1024  # how many documents are read at a time

DOCUMENT_SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("uri", pa.string()),  # the input file
        ("offset", pa.int64()),  # of the record in it; see dataprep.sources.records.Provenance
        ("url", pa.string()),
        ("date", pa.string()),
        ("title", pa.string()),
        ("language", pa.string()),  # ISO 639 code of fastText's lid.176
        ("language_score", pa.float32()),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("title", pa.string()),
        ("language", pa.string()),  # null where it was dropped before that was known
        ("language_score", pa.float32()),
        ("reason", pa.string()),
        ("head", pa.string()),  # the first characters of the text, or what was seen instead
    ]
)
CONTAMINATION_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),  # where the document is from, as in DOCUMENT_SCHEMA
        ("offset", pa.int64()),
        ("url", pa.string()),
        ("evaluation_file", pa.string()),
        ("evaluation_line", pa.int64()),  # where the text begins that has the passage too, from 1
        ("passage", pa.string()),  # its first characters, as the document has it
    ]
)
REMOVAL_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # the row of the duplicate in its part
        ("reason", pa.dictionary(pa.int8(), pa.string())),
        ("survivor", pa.int64()),  # the doc_id of the document that stays in its place
        ("corpus", pa.int16()),  # where that is: 0 for this artifact, k for the k-th of dedupe's `against`
    ]
)
CLUSTER_SCHEMA = pa.schema(
    [
        ("cluster", pa.int64()),  # a number that its members share; it means nothing beyond this artifact
        ("corpus", pa.int16()),  # as in REMOVAL_SCHEMA
        ("doc_id", pa.int64()),
        ("survives", pa.bool_()),
        ("reason", pa.string()),  # null for the survivor
        ("similarity", pa.float32()),  # to the survivor: the Jaccard similarity, estimated from sketches
    ]
)


def document_schema(annotations: Mapping[str, pa.StructType]) -> pa.Schema:
    """`DOCUMENT_SCHEMA`, and for each family that annotates a column of scores with the family's name."""
    return pa.schema([*DOCUMENT_SCHEMA, *annotations.items()])


def signature_schema(num_hashes: int, dtype: pa.DataType) -> pa.Schema:
    """The schema of the signatures, which lie beside the documents row by row."""
    return pa.schema(
        [
            ("hash_high", pa.uint64()),  # of the 128-bit hash of the text
            ("hash_low", pa.uint64()),
            ("num_characters", pa.int64()),
            ("minhash", pa.list_(dtype, num_hashes)),
        ]
    )


@dataclass(frozen=True)
class Shard:
    """A row of the shard table. Its files lie in `parts`, but for removals, which lie beside the table."""

    number: int
    uri: str  # of the input file; of small files that were packed, of the directory that the spec's input covers
    key: str  # of the part's commit
    parts: str  # where parts lie, relative to the artifact if both are on the same store
    num_documents: int
    num_characters: int  # of all its documents, also of removed ones
    documents: WrittenFile
    signatures: WrittenFile
    dropped: WrittenFile
    quarantined: WrittenFile
    removals: WrittenFile | None = None  # the rows that dedupe removed, if any
    num_removed: int = 0
    contamination: WrittenFile | None = None  # the passages of evaluation sets, if these were looked for

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Shard:
        """The inverse of `dataclasses.asdict`."""
        fields: dict[str, Any] = {k: WrittenFile(**v) if k in _FILE_ROLES and v else v for k, v in row.items()}
        return cls(**fields)

    def part_files(self) -> list[WrittenFile]:
        """Its files in `parts`."""
        files = (self.documents, self.signatures, self.dropped, self.quarantined, self.contamination)
        return [file for file in files if file is not None]


_FILE_ROLES = ("documents", "signatures", "dropped", "quarantined", "removals", "contamination")
_FILE_TYPE = pa.struct([("name", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])
_SHARD_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("uri", pa.string()),
        ("key", pa.string()),
        ("parts", pa.string()),
        ("num_documents", pa.int64()),
        ("num_characters", pa.int64()),
        *((role, _FILE_TYPE) for role in _FILE_ROLES),
        ("num_removed", pa.int64()),
    ]
)


def write_shard_table(artifact: str, shards: Sequence[Shard]) -> WrittenFile:
    """Write the shard table of an artifact."""
    return write_table(artifact, SHARD_TABLE, pa.Table.from_pylist([asdict(s) for s in shards], schema=_SHARD_SCHEMA))


def read_shard_table(artifact: str) -> list[Shard]:
    """The shards of an artifact of documents, by number. Raises `InputError` where it is none."""
    try:
        rows = storage.read_table(storage.join(artifact, SHARD_TABLE)).to_pylist()
    except FileNotFoundError as error:
        raise InputError(f"{artifact} holds no documents: it has no {SHARD_TABLE}") from error
    return [Shard.from_row(row) for row in rows]


def rebase(shard: Shard, *, old: str, new: str) -> Shard:
    """The same shard, with the path to its parts as seen from another artifact."""
    return replace(shard, parts=relative_uri(absolute_uri(shard.parts, base=old), base=new))


def doc_ids(shards: int | npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`cluster.contracts.records.doc_id` for many rows, of one shard or of several."""
    return np.asarray(shards, np.int64) << ROW_BITS | rows


def part_file(artifact: str, shard: Shard, file: WrittenFile) -> str:
    """The URI of one of the files in a shard's part, its size checked. Raises `CorruptArtifact`."""
    return check_size(absolute_uri(shard.parts, base=artifact), file)


def read_signatures(artifact: str, shard: Shard, columns: Sequence[str]) -> pa.Table:
    """Some columns of a shard's signatures, all rows, removed ones too."""
    return storage.read_table(part_file(artifact, shard, shard.signatures), columns=columns)


def signature_groups(
    artifact: str, shard: Shard, columns: Sequence[str], *, begin_row: int = 0, end_row: int | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """(first row, table) of each row group of a shard's signatures, in rows `begin_row` to `end_row` - 1 alone."""
    yield from _row_groups(part_file(artifact, shard, shard.signatures), columns, begin_row, end_row)


def document_groups(
    artifact: str, shard: Shard, columns: Sequence[str] | None, *, begin_row: int = 0, end_row: int | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """(first row, table) of each row group of a shard's documents, in rows `begin_row` to `end_row` - 1 alone.

    A row group is what the clean stage wrote at once, so it fits in memory. `columns`: None for all.
    """
    yield from _row_groups(part_file(artifact, shard, shard.documents), columns, begin_row, end_row)


def _row_groups(
    uri: str, columns: Sequence[str] | None, begin_row: int, end_row: int | None
) -> Iterator[tuple[int, pa.Table]]:
    """Groups without a row in the range are not read."""
    with storage.open_table(uri) as file:
        first = 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            begin = max(begin_row - first, 0)
            end = count if end_row is None else min(end_row - first, count)
            if begin < end:
                group = file.read_row_group(number, columns=None if columns is None else list(columns))
                yield first + begin, group.slice(begin, end - begin)
            first += count


def read_row(artifact: str, shard: Shard, row: int, columns: Sequence[str]) -> dict[str, Any]:
    """Some columns of one document; only the row group that it is in is read."""
    _, table = next(document_groups(artifact, shard, columns, begin_row=row, end_row=row + 1))
    values: dict[str, Any] = table.to_pylist()[0]
    return values


def document_columns(artifact: str, shard: Shard) -> pa.Schema:
    """The columns of a shard's documents."""
    return storage.read_schema(part_file(artifact, shard, shard.documents))


def read_columns(artifact: str, shard: Shard, columns: Sequence[str]) -> pa.Table:
    """Some columns of a shard's documents, all rows. Raises `InputError` naming one that is not there."""
    uri = part_file(artifact, shard, shard.documents)
    names = storage.read_schema(uri).names
    if missing := [column for column in columns if column not in names]:
        raise InputError(f"{uri} has no column {missing[0]!r}; it has {', '.join(names)}")
    return storage.read_table(uri, columns=columns)


def read_dropped(artifact: str, shard: Shard) -> pa.Table:
    """A shard's dropped rows (`DROPPED_SCHEMA`)."""
    return storage.read_table(part_file(artifact, shard, shard.dropped), columns=DROPPED_SCHEMA.names)


def read_quarantined(artifact: str, shard: Shard) -> pa.Table:
    """A shard's quarantined records (`cluster.contracts.records.QUARANTINE_SCHEMA`)."""
    table = storage.read_table(part_file(artifact, shard, shard.quarantined))
    if "url" not in table.column_names:  # written before it was kept
        table = table.append_column("url", pa.nulls(len(table), pa.string()))
    return table.select(QUARANTINE_SCHEMA.names)


def read_contamination(artifact: str, shard: Shard) -> pa.Table:
    """The passages of evaluation sets that were found in a shard's documents (`CONTAMINATION_SCHEMA`)."""
    if shard.contamination is None:
        return CONTAMINATION_SCHEMA.empty_table()
    uri = part_file(artifact, shard, shard.contamination)
    return storage.read_table(uri, columns=CONTAMINATION_SCHEMA.names)


def read_removals(artifact: str, shard: Shard) -> pa.Table:
    """A shard's removed rows (`REMOVAL_SCHEMA`)."""
    if shard.removals is None:
        return REMOVAL_SCHEMA.empty_table()
    return storage.read_table(check_size(artifact, shard.removals), columns=REMOVAL_SCHEMA.names)


def removed_rows(artifact: str, shard: Shard) -> npt.NDArray[np.bool_]:
    """For each of a shard's documents, whether dedupe removed it."""
    removed = np.zeros(shard.num_documents, bool)
    removed[read_removals(artifact, shard).column("row").to_numpy()] = True
    return removed


def read_kept(
    artifact: str, shard: Shard, columns: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.int64]]]:
    """The documents of a shard that dedupe left, in order: (batch of `columns`, each row's number in the part).

    No batch spans row groups, which hold as many characters as the clean stage has in memory at once.
    """
    kept = ~removed_rows(artifact, shard)
    row = 0
    with storage.open_table(part_file(artifact, shard, shard.documents)) as file:
        for number in range(file.num_row_groups):
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[number], columns=list(columns)):
                rows = row + np.flatnonzero(kept[row : row + batch.num_rows])
                yield batch.filter(pa.array(kept[row : row + batch.num_rows])), rows
                row += batch.num_rows


def write_table(directory: str, name: str, table: pa.Table) -> WrittenFile:
    """Write one small table (Parquet, zstd), so that readers see all of it or nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    storage.write_bytes(storage.join(directory, name), content)
    return written_file(name, content)


def written_file(name: str, content: bytes) -> WrittenFile:
    """What a manifest records of a small file whose bytes are at hand."""
    return WrittenFile(name, len(content), hashlib.sha256(content).hexdigest())


_DICTIONARY_COLUMNS = ["uri", "language", "reason"]  # these have few values; the others are stored as they are


@contextmanager
def open_tables(part: PartWriter, schemas: Mapping[str, pa.Schema]) -> Iterator[dict[str, pq.ParquetWriter]]:
    """Role -> a writer of the Parquet file with that role in the part."""
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(
                pq.ParquetWriter(
                    stack.enter_context(part.open(role, f"{role}.parquet")),
                    schema,
                    compression="zstd",
                    use_dictionary=[name for name in schema.names if name in _DICTIONARY_COLUMNS],
                )
            )
            for role, schema in schemas.items()
        }
