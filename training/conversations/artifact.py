"""What a conversations artifact holds: its files, the columns of a row, and how other stages read it.

Training and held-out rows lie in files of their own, so that a stage that trains never opens what is held out. So do
prompts that nobody answered, where the stage kept them. A row keeps where it came from: the file's URI, and the offset
and line in it as `files.py` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.commit import HashingStream, WrittenFile
from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.records import QUARANTINE_SCHEMA, Conversation, Message

Split = Literal["train", "heldout"]

FILES: Mapping[Split, str] = {"train": "train.parquet", "heldout": "heldout.parquet"}
PROMPT_FILES: Mapping[Split, str] = {"train": "prompts_train.parquet", "heldout": "prompts_heldout.parquet"}
DROPPED_FILE = "dropped.parquet"

_GROUP_ROWS = 8192  # of a row group, the least that a reader takes at a time
_GROUP_BYTES = 32 << 20
_READ_ROWS = 1024

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
        ("line", pa.int64()),
    ]
)
DROPPED_SCHEMA = ROW_SCHEMA.append(pa.field("reason", pa.string()))
QUARANTINED_SCHEMA = QUARANTINE_SCHEMA.append(pa.field("line", pa.int64())).append(pa.field("source", pa.string()))


@dataclass(frozen=True)
class ReadConversation:
    """A conversation, and where it stood."""

    conversation: Conversation
    uri: str
    offset: int


def num_conversations(uri: str, split: Split) -> int:
    """How many conversations one side of the artifact at `uri` has. Raises `CorruptArtifact`."""
    with _opened(uri, FILES[split]) as file:
        return int(file.metadata.num_rows)


def read_conversations(uri: str, split: Split) -> list[Conversation]:
    """The conversations of one side of the artifact at `uri`, in their order. Raises `CorruptArtifact`."""
    return list(iter_conversations(uri, split))


def iter_conversations(uri: str, split: Split, *, start: int = 0, stop: int | None = None) -> Iterator[Conversation]:
    """The rows [start, stop) of one side of the artifact at `uri`, one after another, in bounded memory.

    Row groups before `start` are not read, so that several readers may share a side. Raises `CorruptArtifact`.
    """
    return (to_conversation(row) for row in _rows(uri, FILES[split], start, stop))


def read_located_conversations(uri: str, split: Split) -> list[ReadConversation]:
    """The conversations of one side with the file and offset of each. Raises `CorruptArtifact`."""
    return [_located(row) for row in _rows(uri, FILES[split])]


def read_located_prompts(uri: str, split: Split) -> list[ReadConversation]:
    """The rows of one side that end with the user, which the stage keeps with `keep_prompts`; else none."""
    name = PROMPT_FILES[split]
    return [_located(row) for row in _rows(uri, name)] if storage.exists(storage.join(uri, name)) else []


def to_row(conversation: Conversation, *, uri: str, offset: int, line: int) -> dict[str, Any]:
    """A row of `ROW_SCHEMA`."""
    return {
        **{name: conversation.get(name) for name in ("weight", "source", "topic")},
        "messages": [message_to_row(message) for message in conversation["messages"]],
        "tools": _json(conversation.get("tools")),
        "uri": uri,
        "offset": offset,
        "line": line,
    }


def to_conversation(row: Mapping[str, Any]) -> Conversation:
    """The conversation that a row of `ROW_SCHEMA` holds."""
    found = {name: row[name] for name in ("weight", "source", "topic") if row[name] is not None}
    if row["tools"] is not None:
        found["tools"] = orjson.loads(row["tools"])
    return Conversation(messages=[message_from_row(message) for message in row["messages"]], **found)  # type: ignore[typeddict-item]


class RowFile:
    """A Parquet file of an artifact, written table by table in row groups of even size."""

    def __init__(self, stream: HashingStream, name: str, schema: pa.Schema) -> None:
        self._stream, self._name, self._schema = stream, name, schema
        self._writer = pq.ParquetWriter(stream, schema, compression="zstd")
        self._pending: list[pa.Table] = []
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        """Append the rows of a table of the file's schema."""
        self.num_rows += len(table)
        while len(table):  # what does not fit into this row group goes into the next one
            room = _GROUP_ROWS - sum(map(len, self._pending))
            self._pending.append(table.slice(0, room))
            table = table.slice(room)
            if len(table) or room == len(self._pending[-1]) or self._num_bytes() >= _GROUP_BYTES:
                self._flush()

    def close(self) -> WrittenFile:
        """Finish the file; its name, size and SHA-256."""
        self._flush()
        self._writer.close()
        return self._stream.written(self._name)

    def _num_bytes(self) -> int:
        return sum(table.nbytes for table in self._pending)

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
        self._pending = []


@contextmanager
def row_file(output: str, name: str, schema: pa.Schema) -> Iterator[RowFile]:
    """A file of the artifact at `output`, to be closed by its `close` before the block ends."""
    storage.make_directory(output)
    filesystem, path = storage.locate(storage.join(output, name))
    with filesystem.open_output_stream(path, compression=None) as sink:
        yield RowFile(HashingStream(cast(BinaryIO, sink)), name, schema)


def _located(row: Mapping[str, Any]) -> ReadConversation:
    return ReadConversation(to_conversation(row), row["uri"], row["offset"])


def _rows(uri: str, name: str, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
    with _opened(uri, name) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            if end > start and (stop is None or first < stop):
                place = first
                for batch in file.iter_batches(_READ_ROWS, row_groups=[group], use_threads=False):
                    low = max(start - place, 0)
                    high = batch.num_rows if stop is None else min(batch.num_rows, stop - place)
                    place += batch.num_rows
                    yield from batch.slice(low, max(high - low, 0)).to_pylist()
            first = end


@contextmanager
def _opened(uri: str, name: str) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open_table(storage.join(uri, name)) as file:
            yield file
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise CorruptArtifact(f"{uri} is no conversations artifact: {error}") from error


def message_to_row(message: Message) -> dict[str, Any]:
    """A message as a value of `MESSAGE_TYPE`."""
    return {**message, "tool_calls": _json(message.get("tool_calls"))}


def message_from_row(row: Mapping[str, Any]) -> Message:
    """The message that a value of `MESSAGE_TYPE` stands for."""
    found = {name: value for name, value in row.items() if value is not None}
    if "tool_calls" in found:
        found["tool_calls"] = orjson.loads(found["tool_calls"])
    return found  # type: ignore[return-value]


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, default=str).decode()
