"""What one task of the clean stage does: an input shard becomes a part of the documents.

Records are read and extracted, normalised, judged, rid of personal data, signed and written. Between reading and
writing all works on columns of some thousand texts. The sizes of these batches are constants, so that the bytes of a
part depend on its input and the settings alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts.commit import commit_part
from cluster.contracts.errors import StageFailed
from cluster.contracts.records import QUARANTINE_SCHEMA, Quarantined
from dataprep.clean.config import CleanConfig
from dataprep.clean.decisions import Decisions, DocumentFilter, Passage
from dataprep.documents import CONTAMINATION_SCHEMA, DROPPED_SCHEMA, HEAD_CHARACTERS, document_schema, open_tables
from dataprep.extract.pages import extracted
from dataprep.filters.families import SCORE_TYPES
from dataprep.filters.quality import local_model
from dataprep.pii.redact import redact
from dataprep.signatures import table as signing
from dataprep.sources.readers import read_sources
from dataprep.sources.records import PlainText, Provenance, Unwanted
from dataprep.sources.shards import Source
from dataprep.text.normalise import normalise, repair_mojibake

_BATCH_DOCUMENTS = 2048
_BATCH_CHARACTERS = 16 << 20


@dataclass
class Batch:
    """Records that are worked on together, in the order in which they were read."""

    texts: list[PlainText] = field(default_factory=list)
    unwanted: list[Unwanted] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    num_characters: int = 0

    def is_full(self) -> bool:
        return (
            self.num_characters >= _BATCH_CHARACTERS
            or len(self.texts) + len(self.unwanted) + len(self.quarantined) >= _BATCH_DOCUMENTS
        )


@dataclass
class Counts:
    """What became of the records of a part."""

    read: int = 0
    kept: int = 0
    characters_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantine_reasons: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)  # of the documents that are kept
    languages_seen: Counter[str] = field(default_factory=Counter)  # of all texts
    pii: Counter[str] = field(default_factory=Counter)  # kind -> placeholders in the documents that are kept
    pii_documents: int = 0  # documents with a placeholder
    contamination: Counter[str] = field(default_factory=Counter)  # evaluation file's URI -> passages found

    def figures(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def check(self, uri: str) -> None:
        """Raise `StageFailed` unless every record that was read is accounted for."""
        dropped, quarantined = self.dropped.total(), self.quarantine_reasons.total()
        if self.read != self.kept + dropped + quarantined:
            raise StageFailed(
                f"{uri}: {self.read} records read, but {self.kept} kept, {dropped} dropped and {quarantined}"
                " quarantined; this is a bug"
            )


def clean_part(
    sources: Sequence[Source], *, parts: str, key: str, config: CleanConfig, classifier: str | None = None
) -> int:
    """Clean what `sources` hold and commit the result as unit `key` of `parts`; returns how many documents are kept.

    The sources are of one format. Source code is spared the rules that are made for prose. `classifier` is the URI of
    the quality classifier's model. Raises `StageFailed` where a record is unaccounted for.
    """
    if sources[0].format == "code":
        config, classifier = config.for_code(), None
    counts = Counts()
    document_filter = DocumentFilter(config, None if classifier is None else local_model(classifier))
    with commit_part(parts, key) as part:
        with open_tables(part, _schemas(config)) as tables:
            for batch in _batches(sources, config, counts):
                _write(batch, document_filter, tables, counts, config)
        counts.check(key)
        part.metrics.update(counts.figures())
    return counts.kept


def _batches(sources: Sequence[Source], config: CleanConfig, counts: Counts) -> Iterator[Batch]:
    batch = Batch()
    raw = read_sources(sources, columns=config.columns, max_record_bytes=config.limits.max_record_bytes)
    for record in extracted(raw, config.extractor, config.limits):
        counts.read += 1
        if isinstance(record, PlainText):
            batch.texts.append(record)
            batch.num_characters += len(record.text)
        elif isinstance(record, Unwanted):
            batch.unwanted.append(record)
        else:
            batch.quarantined.append(record)
        if batch.is_full():
            yield batch
            batch = Batch()
    yield batch


def _write(
    batch: Batch,
    document_filter: DocumentFilter,
    tables: dict[str, pq.ParquetWriter],
    counts: Counts,
    config: CleanConfig,
) -> None:
    texts = pa.array([record.text for record in batch.texts], pa.large_string())
    if config.fix_mojibake:
        texts = repair_mojibake(texts)
    texts = normalise(texts)
    decisions = document_filter.judge(texts, [record.provenance.url for record in batch.texts])
    if batch.texts and batch.texts[0].language is not None:  # source code, all of it
        known = pa.array([record.language for record in batch.texts], pa.string())
        decisions = replace(decisions, languages_D=known, scores_D=np.ones(len(known), np.float32))
    _write_kept(batch, decisions, tables, counts, config)
    _write_dropped(batch, texts, decisions, tables["dropped"], counts)
    _write_contamination(batch, decisions.passages, tables, counts)
    if batch.quarantined:
        tables["quarantined"].write_table(
            pa.Table.from_pylist([asdict(q) for q in batch.quarantined], schema=QUARANTINE_SCHEMA)
        )
        counts.quarantine_reasons.update(q.reason for q in batch.quarantined)
    counts.languages_seen.update(decisions.languages_D.to_pylist())


def _write_kept(
    batch: Batch, decisions: Decisions, tables: dict[str, pq.ParquetWriter], counts: Counts, config: CleanConfig
) -> None:
    column = decisions.kept
    if len(column) == 0:
        return
    kept = np.flatnonzero(decisions.keep_D)
    languages = decisions.languages_D.take(pa.array(kept))
    places = _places([batch.texts[row].provenance for row in kept])
    texts = column.texts
    if config.pii is not None:
        code = [not config.pii.source_code and batch.texts[row].language is not None for row in kept]
        redacted = redact(column, config.pii, skip_D=np.array(code))
        texts = redacted.texts
        counts.pii.update(redacted.counts)
        counts.pii_documents += redacted.num_documents
    annotations = {name: decisions.annotations.get(name, pa.nulls(len(kept), t)) for name, t in _score_types(config)}
    tables["documents"].write_table(
        pa.table(
            {
                "text": texts,
                **places,
                "language": languages,
                "language_score": decisions.scores_D[kept],
                **annotations,
            },
            schema=document_schema(dict(_score_types(config))),
        )
    )
    tables["signatures"].write_table(signing.signatures(column, config.minhash))
    counts.kept += len(column)
    counts.characters_kept += int(column.num_chars_D.sum())
    counts.languages.update(languages.to_pylist())


def _write_dropped(
    batch: Batch, texts: pa.LargeStringArray, decisions: Decisions, table: pq.ParquetWriter, counts: Counts
) -> None:
    rows = np.flatnonzero(~decisions.keep_D)
    reasons = [*decisions.reasons_D[rows].tolist(), *(record.reason for record in batch.unwanted)]
    if not reasons:
        return
    nothing = [None] * len(batch.unwanted)
    heads = [text[:HEAD_CHARACTERS] for text in texts.take(pa.array(rows)).to_pylist()]
    places = [batch.texts[row].provenance for row in rows] + [record.provenance for record in batch.unwanted]
    table.write_table(
        pa.table(
            {
                **_places(places),
                "language": [*decisions.languages_D.take(pa.array(rows)).to_pylist(), *nothing],
                "language_score": [*decisions.scores_D[rows].tolist(), *nothing],
                "reason": reasons,
                "head": heads + [record.head for record in batch.unwanted],
            },
            schema=DROPPED_SCHEMA,
        )
    )
    counts.dropped.update(reasons)


def _write_contamination(
    batch: Batch, passages: Sequence[Passage], tables: dict[str, pq.ParquetWriter], counts: Counts
) -> None:
    if not passages:
        return
    rows = [
        {
            "uri": batch.texts[passage.row].provenance.uri,
            "offset": batch.texts[passage.row].provenance.offset,
            "url": batch.texts[passage.row].provenance.url,
            "evaluation_file": passage.source.file,
            "evaluation_line": passage.source.line,
            "passage": passage.text[:HEAD_CHARACTERS],
        }
        for passage in passages
    ]
    tables["contamination"].write_table(pa.Table.from_pylist(rows, schema=CONTAMINATION_SCHEMA))
    counts.contamination.update(passage.source.file for passage in passages)


def _places(places: Sequence[Provenance]) -> dict[str, list[Any]]:
    return {name: [getattr(place, name) for place in places] for name in Provenance.__dataclass_fields__}


def _score_types(config: CleanConfig) -> list[tuple[str, pa.StructType]]:
    """(name, type) of each column of scores that the documents have."""
    return [(name, SCORE_TYPES[name]) for name in config.annotated_families()]


def _schemas(config: CleanConfig) -> dict[str, pa.Schema]:
    return {
        "documents": document_schema(dict(_score_types(config))),
        "signatures": signing.schema(config.minhash),
        "dropped": DROPPED_SCHEMA,
        "quarantined": QUARANTINE_SCHEMA,
        **({} if config.decontamination is None else {"contamination": CONTAMINATION_SCHEMA}),
    }
