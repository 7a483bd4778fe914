"""What one task of the conversations stage does: a range of a file becomes a part of checked rows with their keys.

Rows are read, made conversations, cleaned where the stage does that, and written with the keys by which
`splitting.py` decides over all parts together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts.commit import commit_part
from cluster.contracts.errors import StageFailed
from cluster.contracts.records import Conversation
from training.conversations.artifact import DROPPED_SCHEMA, QUARANTINED_SCHEMA, ROW_SCHEMA, to_row
from training.conversations.config import ConversationsConfig, LengthLimits
from training.conversations.files import FileRange, FileRow, read_rows, shown
from training.conversations.formats import ParsedRow, RowParser
from training.conversations.keys import KEY_SCHEMA, keys_table
from training.conversations.messages import BadRow

_BATCH_ROWS = 2048
_BATCH_BYTES = 16 << 20  # of texts, about

SCHEMAS = {"rows": ROW_SCHEMA, "keys": KEY_SCHEMA, "dropped": DROPPED_SCHEMA, "quarantined": QUARANTINED_SCHEMA}


@dataclass(frozen=True)
class Cleaned:
    """What cleaning made of some conversations."""

    conversations: list[Conversation]
    reasons: list[str | None]  # why each is dropped; None where it is kept
    counts: Counter[str] = field(default_factory=Counter)  # what was found, by name: "pii_email_address"


class Cleaner(Protocol):
    """Cleans conversations: it may change their texts and drop them, each by itself."""

    def __call__(self, conversations: Sequence[Conversation]) -> Cleaned:
        """The conversations in their order, and why each is dropped."""


CleanerOf = Callable[[ConversationsConfig], Cleaner | None]
"""Makes the cleaner in the process that needs it; None where the settings clean nothing."""


@dataclass
class _Batch:
    rows: list[FileRow] = field(default_factory=list)
    parsed: list[ParsedRow] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    num_bytes: int = 0

    def is_full(self) -> bool:
        return len(self.rows) + len(self.quarantined) >= _BATCH_ROWS or self.num_bytes >= _BATCH_BYTES


def write_part(row: dict[str, Any], *, parts: str, config: ConversationsConfig, cleaner_of: CleanerOf) -> int:
    """Read the shard that `row` describes and commit it as a part; returns how many rows it keeps.

    Raises `StageFailed` where a row is unaccounted for, and `OSError` where a store fails.
    """
    source, set_name = FileRange(**row["source"]), row["set"]
    parser = parser_of(config, set_name)
    cleaner = cleaner_of(config)
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("dropped", "quarantined", "mended", "found")}
    num_read = num_kept = 0
    num_lines: list[int] = []
    with commit_part(parts, row["key"]) as part, ExitStack() as stack:
        tables = {}
        for role, schema in SCHEMAS.items():
            stream = stack.enter_context(part.open(role, f"{role}.parquet"))
            tables[role] = stack.enter_context(pq.ParquetWriter(stream, schema, compression="zstd"))
        for batch in _batches(read_rows(source, count_lines=num_lines.append), parser, source.uri, set_name or None):
            num_read += len(batch.parsed) + len(batch.quarantined)
            num_kept += _write(batch, source.uri, tables, config, cleaner, counts)
        part.metrics.update(
            read=num_read, kept=num_kept, lines=sum(num_lines), **{k: dict(v) for k, v in counts.items()}
        )
    if num_read != num_kept + counts["dropped"].total() + counts["quarantined"].total():
        raise StageFailed(f"{row['uri']}: {num_read} rows read, but {num_kept} kept and {counts}; this is a bug")
    return num_kept


def parser_of(config: ConversationsConfig, set_name: str) -> RowParser:
    """What makes conversations of the rows of a set; "" is the one that `inputs` alone make."""
    source = config.sources()[set_name]
    return RowParser(source, name=set_name or None, mend=config.mend, keep_prompts=config.keep_prompts)


def length_problem(conversation: Conversation, limits: LengthLimits, *, is_prompt: bool) -> str | None:
    """Why a conversation is too short or too long; None where it is neither."""
    if limits == LengthLimits():
        return None
    said = [(message["role"] == "assistant", message["content"]) for message in conversation["messages"]]
    words = [(is_answer, len(content.split())) for is_answer, content in said]
    characters = [(is_answer, len(content)) for is_answer, content in said]
    for sizes, least, most in (
        (words, limits.min_answer_words, limits.max_words),
        (characters, limits.min_answer_characters, limits.max_characters),
    ):
        if least is not None and not is_prompt and sum(size for is_answer, size in sizes if is_answer) < least:
            return "answer_too_short"
        if most is not None and sum(size for _, size in sizes) > most:
            return "too_long"
    return None


def _batches(rows: Iterator[FileRow], parser: RowParser, uri: str, set_name: str | None) -> Iterator[_Batch]:
    batch = _Batch()
    for row in rows:
        reason, detail, parsed = row.reason, row.detail, None
        if not reason:
            try:
                parsed = parser(row.row)
            except BadRow as error:
                reason, detail = str(error), shown(row.row)
        if parsed is not None:
            batch.rows.append(row)
            batch.parsed.append(parsed)
            batch.num_bytes += sum(len(message["content"]) for message in parsed.conversation["messages"])
        else:
            place = {"uri": uri, "offset": row.offset, "line": row.line, "source": set_name}
            batch.quarantined.append({**place, "reason": reason, "detail": detail, "url": None})
        if batch.is_full():
            yield batch
            batch = _Batch()
    yield batch


def _write(
    batch: _Batch,
    uri: str,
    tables: dict[str, pq.ParquetWriter],
    config: ConversationsConfig,
    cleaner: Cleaner | None,
    counts: dict[str, Counter[str]],
) -> int:
    """Write a batch; returns how many rows are kept."""
    conversations = [parsed.conversation for parsed in batch.parsed]
    cleaned = Cleaned(conversations, [None] * len(conversations))
    if cleaner is not None and conversations:
        cleaned = cleaner(conversations)
    reasons = [
        reason or length_problem(conversation, config.length, is_prompt=parsed.is_prompt)
        for reason, conversation, parsed in zip(cleaned.reasons, cleaned.conversations, batch.parsed, strict=True)
    ]
    rows = [
        to_row(conversation, uri=uri, offset=row.offset, line=row.line)
        for conversation, row in zip(cleaned.conversations, batch.rows, strict=True)
    ]
    kept = [n for n, reason in enumerate(reasons) if reason is None]
    dropped = [{**rows[n], "reason": reason} for n, reason in enumerate(reasons) if reason is not None]
    tables["rows"].write_table(pa.Table.from_pylist([rows[n] for n in kept], schema=ROW_SCHEMA))
    tables["keys"].write_table(
        keys_table(
            [cleaned.conversations[n] for n in kept],
            [batch.parsed[n].is_prompt for n in kept],
            fraction=config.heldout_fraction,
            seed=config.split_seed,
            ignore_punctuation=config.ignore_punctuation,
        )
    )
    tables["dropped"].write_table(pa.Table.from_pylist(dropped, schema=DROPPED_SCHEMA))
    tables["quarantined"].write_table(pa.Table.from_pylist(batch.quarantined, schema=QUARANTINED_SCHEMA))
    counts["dropped"].update(row["reason"] for row in dropped)
    counts["quarantined"].update(row["reason"] for row in batch.quarantined)
    counts["mended"].update(kind for parsed in batch.parsed for kind in parsed.mended)
    counts["found"].update(cleaned.counts)
    return len(kept)
