"""What a task of the repeated-lines stage does with a part: it counts lines, or writes the documents without some.

Row groups are read one by one, as the clean stage wrote them, so memory is bounded as it is there. Source code is left
alone, since its lines recur by nature.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.contracts.commit import commit_part
from cluster.contracts.errors import StageFailed
from cluster.contracts.records import QUARANTINE_SCHEMA
from dataprep.documents import (
    CONTAMINATION_SCHEMA,
    DROPPED_SCHEMA,
    HEAD_CHARACTERS,
    Shard,
    document_columns,
    document_groups,
    open_tables,
    read_contamination,
    read_dropped,
    read_quarantined,
)
from dataprep.repeated_lines.config import RepeatedLinesConfig
from dataprep.repeated_lines.line_counts import CORPUS, COUNT_SCHEMA, SITE, LineCounter, Thresholds, copy_keys
from dataprep.repeated_lines.line_keys import NO_KEY, is_among, line_keys, site_hashes, site_keys, sums_D, without_lines
from dataprep.signatures import table as signing
from dataprep.signatures.config import MinHashSettings
from dataprep.sources.code_languages import CODE_LANGUAGES
from dataprep.text.column import TextColumn

REASON = "repeated_lines"  # why a document is dropped of which too little is left
SCORES = "repeated_lines"  # the column of scores, in mode "annotate"
SCORE_TYPE = pa.struct([("cut_lines_fraction", pa.float64()), ("cut_characters_fraction", pa.float64())])
CUT_SCHEMA = pa.schema(
    [
        ("line", pa.uint64()),
        ("scope", pa.uint8()),
        ("documents", pa.uint32()),  # how many documents of this part have it
        ("text", pa.string()),  # its first characters, as the first of these has it
    ]
)
_COUNT_ROW_GROUP = 1 << 14  # rows; whoever reads a range of keys reads so many too many at most


def thresholds(config: RepeatedLinesConfig, *, num_documents: int = 0) -> Thresholds:
    """When a line counts as repeated in a corpus of so many documents."""
    least = config.min_documents_fraction * num_documents
    return Thresholds(config.min_documents, config.min_site_documents, least_documents=least)


def count_part(artifact: str, shard: Shard, *, counts: str, key: str, config: RepeatedLinesConfig) -> int:
    """Count the lines of a shard's documents and commit the table as unit `key` of `counts`; returns the documents."""
    counter = LineCounter(most_copies=thresholds(config).most_copies)
    for _, documents in document_groups(artifact, shard, ["text", "url", "language"]):
        column = TextColumn(documents.column("text"))
        keys = keys_of_lines(column, documents, config)
        counter.add(keys, _documents_of_lines(column), copy_keys(column.terms))
    table = counter.table()
    with commit_part(counts, key) as part:
        with part.open("counts", "counts.parquet") as sink, pq.ParquetWriter(sink, COUNT_SCHEMA) as writer:
            writer.write_table(table, row_group_size=_COUNT_ROW_GROUP)
        part.metrics["rows"] = table.num_rows
    return shard.num_documents


@dataclass
class Counts:
    """What became of a part's documents."""

    documents: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lines: int = 0  # that are not empty
    cut_lines: int = 0  # in mode "annotate", here and below: that would be cut
    cut_characters: int = 0
    cut_documents: int = 0  # that lose a line or more
    characters_kept: int = 0
    languages: Counter[str] = field(default_factory=Counter)  # of the kept

    def figures(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


def rewrite_part(
    artifact: str,
    shard: Shard,
    *,
    parts: str,
    key: str,
    hits: npt.NDArray[np.uint64],
    config: RepeatedLinesConfig,
    minhash: MinHashSettings,
) -> None:
    """Write a shard's documents without the lines whose keys are in `hits` (sorted), as unit `key` of `parts`.

    What the clean stage dropped and quarantined is copied, so that the part says what became of all of its input.
    """
    counts, cut = Counts(), _CutLines()
    with commit_part(parts, key) as part:
        schema = _document_schema(artifact, shard, config)
        schemas = {
            "documents": schema,
            "signatures": signing.schema(minhash),
            "dropped": DROPPED_SCHEMA,
            "quarantined": QUARANTINE_SCHEMA,
            **({} if shard.contamination is None else {"contamination": CONTAMINATION_SCHEMA}),
            "cut": CUT_SCHEMA,
        }
        with open_tables(part, schemas) as tables:
            tables["dropped"].write_table(read_dropped(artifact, shard).cast(DROPPED_SCHEMA))
            tables["quarantined"].write_table(read_quarantined(artifact, shard).cast(QUARANTINE_SCHEMA))
            if shard.contamination is not None:
                tables["contamination"].write_table(read_contamination(artifact, shard).cast(CONTAMINATION_SCHEMA))
            for _, documents in document_groups(artifact, shard, None):
                _rewrite(documents, schema, hits, tables, counts, cut, config, minhash)
            tables["cut"].write_table(cut.table())
        if counts.documents != counts.kept + counts.dropped.total() or counts.documents != shard.num_documents:
            raise StageFailed(f"{shard.uri}: {shard.num_documents} documents, but {counts.figures()}; this is a bug")
        part.metrics.update(counts.figures())


def _rewrite(
    documents: pa.Table,
    schema: pa.Schema,
    hits: npt.NDArray[np.uint64],
    tables: dict[str, pq.ParquetWriter],
    counts: Counts,
    cut: _CutLines,
    config: RepeatedLinesConfig,
    minhash: MinHashSettings,
) -> None:
    column = TextColumn(documents.column("text"))
    lines = column.lines
    cut_L = np.zeros(len(lines.starts), bool)
    for scope, keys_L in keys_of_lines(column, documents, config).items():
        cut_of_scope_L = is_among(keys_L, hits)
        cut.add(column, keys_L, cut_of_scope_L, scope)
        cut_L |= cut_of_scope_L
    offsets, num_chars_L = lines.doc_offsets, lines.num_chars.astype(np.int64)
    cut_chars_D, all_chars_D = sums_D(num_chars_L * cut_L, offsets), sums_D(num_chars_L, offsets)
    cut_lines_D, all_lines_D = (
        sums_D(cut_L.astype(np.int64), offsets),
        sums_D((num_chars_L > 0).astype(np.int64), offsets),
    )
    loses_D = cut_lines_D > 0
    counts.documents += len(column)
    counts.lines += int(all_lines_D.sum())
    counts.cut_lines += int(cut_lines_D.sum())
    counts.cut_characters += int(cut_chars_D.sum())
    counts.cut_documents += int(loses_D.sum())
    keep_D = np.ones(len(column), bool)
    if config.mode == "annotate":
        scores = [_fractions(cut_lines_D, all_lines_D), _fractions(cut_chars_D, all_chars_D)]
        documents = documents.append_column(
            schema.field(SCORES), pa.StructArray.from_arrays(scores, fields=list(SCORE_TYPE))
        )
    elif loses_D.any():
        edited = without_lines(column, cut_L).edited(column)
        keep_D[loses_D] = edited.filter(loses_D).num_words_D >= config.min_words_left
        column = edited.filter(keep_D)
    if not keep_D.all():
        _write_dropped(documents.filter(pa.array(~keep_D)), tables["dropped"])
        documents = documents.filter(pa.array(keep_D))
    counts.dropped.update([REASON] * int((~keep_D).sum()))
    counts.kept += len(column)
    if len(column) == 0:
        return
    documents = documents.set_column(documents.column_names.index("text"), "text", column.texts)
    tables["documents"].write_table(documents.cast(schema))
    tables["signatures"].write_table(signing.signatures(column, minhash))
    counts.characters_kept += int(column.num_chars_D.sum())
    counts.languages.update(documents.column("language").to_pylist())


def _write_dropped(documents: pa.Table, table: pq.ParquetWriter) -> None:
    heads = pc.utf8_slice_codeunits(documents.column("text"), 0, HEAD_CHARACTERS).cast(pa.string())
    columns = {name: documents.column(name) for name in DROPPED_SCHEMA.names if name in documents.column_names}
    reasons = pa.array([REASON] * documents.num_rows)
    table.write_table(
        pa.table({**columns, "reason": reasons, "head": heads}).select(DROPPED_SCHEMA.names).cast(DROPPED_SCHEMA)
    )


class _CutLines:
    """The lines that a part loses, each with how many documents have it and what it looks like (`CUT_SCHEMA`)."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], list[Any]] = {}  # (line, scope) -> [documents, text]

    def add(self, column: TextColumn, keys_L: npt.NDArray[np.uint64], cut_L: npt.NDArray[np.bool_], scope: int) -> None:
        rows = np.flatnonzero(cut_L)
        documents = _documents_of_lines(column)[rows]
        once = np.unique(np.stack([keys_L[rows], documents.astype(np.uint64)]), axis=1)[0] if len(rows) else keys_L[:0]
        counts = np.unique(once, return_counts=True)[1]
        lines, first = np.unique(keys_L[rows], return_index=True)
        for line, at, count in zip(lines.tolist(), rows[first].tolist(), counts.tolist(), strict=True):
            found = self._found.setdefault((line, scope), [0, ""])
            if found[0] == 0:
                start, end = column.lines.starts[at], column.lines.ends[at]
                found[1] = column.data[start:end].tobytes().decode()[:HEAD_CHARACTERS]
            found[0] += count

    def table(self) -> pa.Table:
        rows = [(line, scope, *found) for (line, scope), found in sorted(self._found.items())]
        return pa.Table.from_pylist([dict(zip(CUT_SCHEMA.names, row, strict=True)) for row in rows], schema=CUT_SCHEMA)


def keys_of_lines(
    column: TextColumn, documents: pa.Table, config: RepeatedLinesConfig
) -> dict[int, npt.NDArray[np.uint64]]:
    """Scope -> [L] the keys of the lines, for the scopes that are on; `NO_KEY` for lines of source code."""
    of_lines = _documents_of_lines(column)
    is_code_D = pc.is_in(documents.column("language"), pa.array(sorted(CODE_LANGUAGES))).to_numpy()
    keys_L = line_keys(column, min_characters=config.min_line_characters)
    keys_L[is_code_D[of_lines]] = NO_KEY
    keys = {CORPUS: keys_L} if config.min_documents is not None else {}
    if config.min_site_documents is not None:
        keys[SITE] = site_keys(keys_L, site_hashes(documents.column("url").to_pylist())[of_lines])
    return keys


def _documents_of_lines(column: TextColumn) -> npt.NDArray[np.int64]:
    """[L] which document each line is in."""
    return np.repeat(np.arange(len(column)), column.lines.counts_D())


def _fractions(part_D: npt.NDArray[np.int64], whole_D: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(part_D / np.maximum(whole_D, 1), pa.float64())


def _document_schema(artifact: str, shard: Shard, config: RepeatedLinesConfig) -> pa.Schema:
    schema = document_columns(artifact, shard)
    return schema.append(pa.field(SCORES, SCORE_TYPE)) if config.mode == "annotate" else schema
