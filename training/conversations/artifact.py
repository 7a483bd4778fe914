"""What a conversations artifact holds: its files, the columns of a row, and how other stages read it.

Training and held-out rows lie in files of their own, so that a stage that trains never opens what is held out. A row
keeps where it came from: the file's URI and the offset that `reading.py` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.records import Conversation, Message

Split = Literal["train", "heldout"]

FILES: Mapping[Split, str] = {"train": "train.parquet", "heldout": "heldout.parquet"}
DROPPED_FILE = "dropped.parquet"

MESSAGE_TYPE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("reasoning_content", pa.string()),
        ("tool_calls", pa.string()),  # JSON, since the arguments have a schema of their own in every call
        ("tool_call_id", pa.string()),
        ("name", pa.string()),
        ("weight", pa.float64()),
    ]
)
ROW_SCHEMA = pa.schema(
    [
        ("messages", pa.list_(MESSAGE_TYPE)),
        ("tools", pa.string()),  # JSON
        ("weight", pa.float64()),
        ("source", pa.string()),
        ("topic", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
    ]
)
DROPPED_SCHEMA = ROW_SCHEMA.append(pa.field("reason", pa.string()))


@dataclass(frozen=True)
class ReadConversation:
    """A conversation, and where it stood."""

    conversation: Conversation
    uri: str
    offset: int


def conversations_parquet(rows: Sequence[ReadConversation]) -> bytes:
    """The rows as a Parquet file (zstd)."""
    return _parquet([_to_row(row) for row in rows], ROW_SCHEMA)


def dropped_parquet(rows: Sequence[tuple[ReadConversation, str]]) -> bytes:
    """Rows that belong to neither side, each with the reason, as a Parquet file."""
    return _parquet([{**_to_row(row), "reason": reason} for row, reason in rows], DROPPED_SCHEMA)


def read_conversations(uri: str, split: Split) -> list[Conversation]:
    """The conversations of one side of the artifact at `uri`, in their order. Raises `CorruptArtifact`."""
    return [read.conversation for read in read_located_conversations(uri, split)]


def read_located_conversations(uri: str, split: Split) -> list[ReadConversation]:
    """The same with the file and offset of each. Raises `CorruptArtifact`."""
    try:
        table = storage.read_table(storage.join(uri, FILES[split]))
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise CorruptArtifact(f"{uri} is no conversations artifact: {error}") from error
    return [ReadConversation(_from_row(row), row["uri"], row["offset"]) for row in table.to_pylist()]


def _to_row(read: ReadConversation) -> dict[str, Any]:
    conversation = read.conversation
    return {
        **{name: conversation.get(name) for name in ("weight", "source", "topic")},
        "messages": [message_to_row(message) for message in conversation["messages"]],
        "tools": _json(conversation.get("tools")),
        "uri": read.uri,
        "offset": read.offset,
    }


def message_to_row(message: Message) -> dict[str, Any]:
    """A message as a value of `MESSAGE_TYPE`."""
    return {**message, "tool_calls": _json(message.get("tool_calls"))}


def _from_row(row: Mapping[str, Any]) -> Conversation:
    found = {name: row[name] for name in ("weight", "source", "topic") if row[name] is not None}
    if row["tools"] is not None:
        found["tools"] = orjson.loads(row["tools"])
    return Conversation(messages=[message_from_row(message) for message in row["messages"]], **found)  # type: ignore[typeddict-item]


def message_from_row(row: Mapping[str, Any]) -> Message:
    """The message that a value of `MESSAGE_TYPE` stands for."""
    found = {name: value for name, value in row.items() if value is not None}
    if "tool_calls" in found:
        found["tool_calls"] = orjson.loads(found["tool_calls"])
    return found  # type: ignore[return-value]


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _parquet(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
