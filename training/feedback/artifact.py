"""What a preferences artifact holds: its files, the one schema of all kinds of rows, and how it is read.

Training and held-out rows lie in files of their own, so that a stage that trains never opens what is held out. The
rule by which pairs are made of rankings and scores stands in the files' metadata, so every stage makes the same ones.

Every kind has its answers in the column `answers`. A pair has two, `chosen` with rank 1 and `rejected` with rank 2; a
ranking has ranks, scores have scores and criteria, a label has one answer with its label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact, InputError
from training.conversations.artifact import MESSAGE_TYPE, message_from_row, message_to_row
from training.feedback.conversions import PairRule
from training.feedback.rows import Answer, FeedbackRow, Label, PreferencePair, Ranking, Scores

Split = Literal["train", "heldout"]

FILES: Mapping[Split, str] = {"train": "train.parquet", "heldout": "heldout.parquet"}
DROPPED_FILE = "dropped.parquet"
_RULE_KEY = b"raymill.pair_rule"
_BATCH_ROWS = 4096  # rows of a row group: bounds what is in memory twice, as Python objects and as Arrow

_ANSWER = pa.struct(
    [
        ("messages", pa.list_(MESSAGE_TYPE)),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("criteria", pa.map_(pa.string(), pa.float64())),
        ("label", pa.bool_()),
        ("model", pa.string()),
    ]
)
ROW_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("split", pa.string()),
        ("prompt", pa.list_(MESSAGE_TYPE)),
        ("tools", pa.string()),  # JSON
        ("answers", pa.list_(_ANSWER)),
        ("margin", pa.float64()),
        ("score_low", pa.float64()),
        ("score_high", pa.float64()),
        ("weight", pa.float64()),
        ("topic", pa.string()),
        ("source", pa.string()),
        ("source_name", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("reward_model_only", pa.bool_()),
    ]
)
DROPPED_SCHEMA = ROW_SCHEMA.append(pa.field("reason", pa.string()))
_SHARED = ("kind", "source", "source_name", "topic", "weight", "uri", "offset", "reward_model_only")


def rows_parquet(rows: Iterable[FeedbackRow], split: Split, rule: PairRule) -> bytes:
    """The rows of one side as a Parquet file (zstd)."""
    schema = ROW_SCHEMA.with_metadata({_RULE_KEY: orjson.dumps(rule.to_dict())})
    return _parquet(({**to_columns(row), "split": split} for row in rows), schema)


def dropped_parquet(rows: Iterable[tuple[FeedbackRow, str]]) -> bytes:
    """Rows that belong to neither side, each with the reason, as a Parquet file."""
    return _parquet(({**to_columns(row), "reason": reason} for row, reason in rows), DROPPED_SCHEMA)


def iterate_rows(uri: str, split: Split) -> Iterator[FeedbackRow]:
    """The rows of one side of the artifact at `uri`, in their order, some thousand in memory at a time.

    Raises `InputError` where there is no such artifact and `CorruptArtifact` where it can't be read.
    """
    try:
        with storage.open_table(storage.join(uri, FILES[split])) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from (from_columns(row) for row in batch.to_pylist())
    except FileNotFoundError as error:
        raise InputError(
            f"{uri} is no preferences artifact (it has no {FILES[split]}); give files of your own to a preferences "
            "stage, as its `inputs`"
        ) from error
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{uri}/{FILES[split]} does not hold rows of feedback: {error!r}") from error


def read_pair_rule(uri: str, split: Split) -> PairRule:
    """The rule by which pairs are made of the artifact's rankings and scores."""
    metadata = storage.read_schema(storage.join(uri, FILES[split])).metadata or {}
    return PairRule(**orjson.loads(metadata[_RULE_KEY])) if _RULE_KEY in metadata else PairRule()


def to_columns(row: FeedbackRow) -> dict[str, Any]:
    """The row as values of `ROW_SCHEMA`, but for `split`."""
    columns: dict[str, Any] = {name: row.get(name) for name in _SHARED}
    columns["prompt"] = [message_to_row(message) for message in row["prompt"]]
    columns["tools"] = orjson.dumps(row["tools"]).decode() if "tools" in row else None
    if row["kind"] == "pair":
        columns["answers"] = [_answer(row["chosen"], rank=1), _answer(row["rejected"], rank=2)]
        columns["margin"] = row.get("margin")
    elif row["kind"] == "label":
        columns["answers"] = [_answer(row["answer"], label=row["label"])]
    else:
        models = row.get("models") or [None] * len(row["answers"])
        judged: Sequence[Mapping[str, Any]]
        if row["kind"] == "ranking":
            judged = [{"rank": rank} for rank in row["ranks"]]
        else:
            criteria = row.get("criteria") or [{} for _ in row["answers"]]
            judged = [
                {"score": score, "criteria": list(parts.items()) or None}
                for score, parts in zip(row["scores"], criteria, strict=True)
            ]
            columns["score_low"], columns["score_high"] = row.get("score_range") or (None, None)
        columns["answers"] = [
            _answer(answer, model=model, **values)
            for answer, model, values in zip(row["answers"], models, judged, strict=True)
        ]
    return columns


def from_columns(row: Mapping[str, Any]) -> FeedbackRow:
    """The row whose columns `to_columns` gave. Raises `KeyError` for a kind that is unknown."""
    found: dict[str, Any] = {name: row[name] for name in _SHARED if row[name] is not None}
    found["prompt"] = [message_from_row(message) for message in row["prompt"]]
    if row["tools"] is not None:
        found["tools"] = orjson.loads(row["tools"])
    judged = row["answers"]
    answers = [[message_from_row(message) for message in answer["messages"]] for answer in judged]
    if row["kind"] == "pair":
        found["chosen"], found["rejected"] = answers
        if row["margin"] is not None:
            found["margin"] = row["margin"]
        return cast(PreferencePair, found)
    if row["kind"] == "label":
        (found["answer"],) = answers
        found["label"] = judged[0]["label"]
        return cast(Label, found)
    found["answers"] = answers
    if any(answer["model"] is not None for answer in judged):
        found["models"] = [answer["model"] for answer in judged]
    if row["kind"] == "ranking":
        found["ranks"] = [answer["rank"] for answer in judged]
        return cast(Ranking, found)
    if row["kind"] != "scores":
        raise KeyError(row["kind"])
    found["scores"] = [answer["score"] for answer in judged]
    if any(answer["criteria"] is not None for answer in judged):
        found["criteria"] = [dict(answer["criteria"] or ()) for answer in judged]
    if row["score_low"] is not None:
        found["score_range"] = (row["score_low"], row["score_high"])
    return cast(Scores, found)


def _answer(answer: Answer, **judged: Any) -> dict[str, Any]:
    return {"messages": [message_to_row(message) for message in answer], **judged}


def _parquet(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in _batches(rows):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    return bytes(sink.getvalue().to_pybytes())


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(dict(row))
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
