"""Conversations as token ids for training: encoded once, in shares, into Arrow files that all ranks map.

Each rank encodes a stretch of the rows in bounded memory and writes them to a file. The files of all ranks, one behind
the other, are the rows in their order, however many ranks there are. They are mapped and not read, so a rank holds none
of them in memory of its own; int32 ids and labels take 8 bytes a token on the disk.

Shape letter: T tokens of one conversation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, overload
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.contracts import storage
from cluster.contracts.chat.encoder import IGNORE_INDEX, ChatEncoder, EncodedConversation
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.records import Conversation
from training.conversations.artifact import Split, iter_conversations, num_conversations
from training.launch.workers import Worker, gather_over_ranks

if TYPE_CHECKING:
    from datasets import Dataset

_ROW_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
_FOLDER = "encoded"
_BATCH = 2000  # conversations that are held as Python objects at a time


@dataclass
class Unused:
    """How many conversations, or parts of them, can't be learnt from, and why."""

    refused: Counter[str] = field(
        default_factory=Counter
    )  # reason -> those that the template does not take as they are
    num_without_answer: int = 0  # those that no token to learn is left of, by their length or since all weights are 0
    num_truncated: int = 0  # of the others, those that lost tokens to learn to `max_length`: the end of their answer

    @property
    def num_refused(self) -> int:
        """All that were refused, whatever the reason."""
        return self.refused.total()


class EncodedRows(Sequence[EncodedConversation]):
    """Encoded conversations in Arrow files that are mapped; one is made a Python object when it is asked for."""

    def __init__(self, table: pa.Table, unused: Unused) -> None:
        """`table` has the columns of `write_rows`."""
        self._table = table
        self.unused = unused
        self.lengths: list[int] = pc.list_value_length(table["input_ids"]).to_pylist()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> EncodedConversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedConversation]: ...
    def __getitem__(self, index: int | slice) -> EncodedConversation | list[EncodedConversation]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self._table.slice(index % len(self), 1)
        labels_T = row["labels"][0].values.to_numpy()
        return EncodedConversation(row["input_ids"][0].as_py(), (labels_T != IGNORE_INDEX).tolist())

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that carry loss, of all rows together."""
        labels = (chunk.flatten() for chunk in self._table["labels"].chunks)
        return sum(int(np.count_nonzero(values.to_numpy() != IGNORE_INDEX)) for values in labels)

    def dataset(self, order: Sequence[int]) -> Dataset:
        """The rows in that order, as TRL's SFT trainer takes them: input_ids and labels. Nothing is copied.

        Its fingerprint is drawn, since one taken of the content would read it all.
        """
        from datasets import Dataset
        from datasets.table import InMemoryTable  # of mapped buffers too

        return Dataset(InMemoryTable(self._table), fingerprint=uuid4().hex).select(order)


def encode_once(
    worker: Worker, encoder: ChatEncoder, uri: str, split: Split, *, max_length: int, output: str
) -> EncodedRows:
    """One side of the conversations artifact at `uri`, each conversation cut to `max_length`; all ranks call it.

    The ranks' files are handed over below `output` until `remove_encoded`. Raises `InputError` for a chat template that
    is of no use for training.
    """
    total = num_conversations(uri, split)
    start, stop = (total * rank // worker.world_size for rank in (worker.rank, worker.rank + 1))
    mine = worker.scratch / f"{split}-{worker.rank}.arrow"
    unused = write_rows(mine, encoder, iter_conversations(uri, split, start=start, stop=stop), max_length=max_length)
    files = [mine]
    if worker.world_size > 1:
        uris = [storage.join(output, _FOLDER, f"{split}-{rank}.arrow") for rank in range(worker.world_size)]
        storage.upload_file(mine, uris[worker.rank])
        worker.barrier()
        files = [_fetched(part, worker.scratch / _FOLDER) for part in uris]
    found: list[Unused] = gather_over_ranks(worker, [unused])
    together = Unused(
        sum((part.refused for part in found), Counter()),
        sum(part.num_without_answer for part in found),
        sum(part.num_truncated for part in found),
    )
    return EncodedRows(mapped_rows(files), together)


def remove_encoded(output: str) -> None:
    """Remove the files that `encode_once` handed over; on one rank, when no rank opens them any more."""
    storage.delete_directory(storage.join(output, _FOLDER))


def write_rows(path: Path, encoder: ChatEncoder, conversations: Iterable[Conversation], *, max_length: int) -> Unused:
    """Encode conversations into an Arrow file at `path`, in bounded memory; what was left out is counted."""
    unused = Unused()
    remaining = iter(conversations)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _ROW_SCHEMA) as writer:
        while batch := list(islice(remaining, _BATCH)):
            rows = list(_usable(encoder, batch, max_length, unused))
            columns = [[row.input_ids_T for row in rows], [row.labels() for row in rows]]
            writer.write_batch(pa.record_batch(columns, schema=_ROW_SCHEMA))
    return unused


def mapped_rows(paths: Sequence[Path]) -> pa.Table:
    """The rows of files of `write_rows`, one file behind the other; the files are mapped."""
    tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
    return pa.concat_tables(tables)


def _usable(
    encoder: ChatEncoder, conversations: Sequence[Conversation], max_length: int, unused: Unused
) -> Iterator[EncodedConversation]:
    heard = [c for c in conversations if c.get("weight", 1) != 0]
    unused.num_without_answer += len(conversations) - len(heard)
    for whole in encoder.encode_batch((c["messages"], c.get("tools")) for c in heard):
        if isinstance(whole, ChatRefused):
            unused.refused[whole.reason] += 1
            continue
        row = whole.truncated(max_length)
        num_learnt = sum(row.assistant_mask_T)
        if not num_learnt:
            unused.num_without_answer += 1
            continue
        unused.num_truncated += num_learnt < sum(whole.assistant_mask_T)
        yield row


def _fetched(uri: str, scratch: Path) -> Path:
    """A local path of a file: itself where it is local, else a copy."""
    if storage.is_local(uri):
        return storage.local_path(uri)
    target = scratch / uri.rsplit("/", 1)[-1]
    storage.download_file(uri, target)
    return target
