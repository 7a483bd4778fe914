"""The conversations stage: conversations read once from files, and split by first prompt for all stages that follow.

1. Each range of a file becomes a part of checked and cleaned rows, committed by itself (`part.py`): in tasks on Ray
   where there is much to read, else here.
2. The keys of all rows, some 40 bytes each, say together what becomes of every row (`splitting.py`).
3. The parts are copied into the artifact's files, column by column, and removed.

Rows read = training + held out + prompts + dropped by reason + quarantined, copies of training rows counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import CommittedPart, WrittenFile, committed_part
from cluster.contracts.errors import InputError, StageFailed
from training.conversations.artifact import (
    DROPPED_FILE,
    DROPPED_SCHEMA,
    FILES,
    PROMPT_FILES,
    QUARANTINED_SCHEMA,
    ROW_SCHEMA,
    RowFile,
    row_file,
)
from training.conversations.config import ConversationsConfig
from training.conversations.keys import RowKeys, joined_keys
from training.conversations.part import CleanerOf, write_part
from training.conversations.ranges import Shard, first_lines, plan_shards
from training.conversations.reading import QUARANTINE_FILE
from training.conversations.splitting import REASONS, Decisions, SetShare, counts_by_set, decide

PARTS = "parts"  # directory of what is read so far; it is removed when the artifact's own files are there
_FEW_BYTES = 32 << 20  # that are read here, since starting tasks takes longer
_COPIED_ROWS = 4096

Task = Callable[[dict[str, Any]], int]
RunTasks = Callable[[Task, Sequence[dict[str, Any]], int, int], None]
"""(task, shards to do, how many are done, rows in those) -> run the task on each."""


def no_cleaner(config: ConversationsConfig) -> None:
    """Cleans nothing."""


def run(
    config: ConversationsConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    cleaner_of: CleanerOf = no_cleaner,
    run_tasks: RunTasks | None = None,
) -> StageResult:
    """Write both sides of the split, the rows left out and those that were no conversations.

    `cleaner_of` and `run_tasks` come from the runner, since cleaning and tasks on Ray are the data room's; without
    `run_tasks` all is read in this process. Raises `InputError` where no row is a conversation, or none is left to
    train on.
    """
    shards = [
        shard
        for name, source in config.sources().items()
        for shard in plan_shards(name, source.inputs or [], source.file_format)
    ]
    parts_uri = storage.join(output, PARTS)
    parts = _read(shards, parts_uri, config, context, cleaner_of, run_tasks)
    _refuse_nothing_read(config, shards, parts)
    keys = joined_keys([table for _, part in parts for table in [_table(parts_uri, part, "keys")]])
    sets = _shares(config, shards, parts)
    decisions = decide(
        keys, sets, deduplicate=config.deduplicate, one_per_prompt=config.one_per_prompt, seed=config.split_seed
    )
    num_train = int(((decisions.reason_N == 0) & ~keys.is_heldout_N & ~keys.is_prompt_N).sum())
    if not num_train and not (config.keep_prompts and keys.is_prompt_N.any()):
        raise InputError(
            f"{len(keys)} conversations leave none to train on (heldout_fraction {config.heldout_fraction})"
        )
    files = _write(config, output, parts_uri, shards, parts, keys, decisions)
    storage.delete_directory(parts_uri)
    return StageResult(_metrics(config, shards, parts, keys, decisions, sets), files)


Parts = list[tuple[Shard, CommittedPart]]


def _read(
    shards: Sequence[Shard],
    parts_uri: str,
    config: ConversationsConfig,
    context: StageContext,
    cleaner_of: CleanerOf,
    run_tasks: RunTasks | None,
) -> Parts:
    """The parts of all shards; those that an earlier attempt committed are not read again."""
    done = {shard.key: part for shard in shards if (part := committed_part(parts_uri, shard.key)) is not None}
    todo = [shard for shard in shards if shard.key not in done]
    if done:
        context.progress.note(f"{len(done)} of {len(shards)} parts were read before")
    task = partial(write_part, parts=parts_uri, config=config, cleaner_of=cleaner_of)
    num_rows = sum(part.metrics["kept"] for part in done.values())
    if run_tasks is None or sum(shard.num_bytes for shard in todo) <= _FEW_BYTES:
        for number, shard in enumerate(todo, len(done) + 1):
            num_rows += task(shard.to_row())
            context.progress.update(number, len(shards), "files", conversations=num_rows)
    else:
        run_tasks(task, [shard.to_row() for shard in todo], len(done), num_rows)
    parts = []
    for shard in shards:
        part = done.get(shard.key) or committed_part(parts_uri, shard.key)
        assert part is not None, "a task that fails raises"
        parts.append((shard, part))
    return parts


def _refuse_nothing_read(config: ConversationsConfig, shards: Sequence[Shard], parts: Parts) -> None:
    """Raise `InputError` where a set has no row that is a conversation."""
    for name, source in config.sources().items():
        found = [part.metrics for shard, part in parts if shard.set_name == name]
        if any(metrics["kept"] + sum(metrics["dropped"].values()) for metrics in found):
            continue
        reasons = _summed(found, "quarantined")
        counted = ", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "no rows"
        raise InputError(
            f"{', '.join(source.inputs or [])}: none of {sum(reasons.values())} rows is a conversation ({counted}); a "
            'row must be {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}, or another of '
            "the forms in docs/your-own-data.md, or `format`, `columns` or `template` must say what it is"
        )


def _shares(config: ConversationsConfig, shards: Sequence[Shard], parts: Parts) -> list[SetShare]:
    shares = []
    begin = 0
    for name, source in config.sources().items():
        end = begin + sum(part.metrics["kept"] for shard, part in parts if shard.set_name == name)
        shares.append(SetShare(name, slice(begin, end), source.weight, source.max_rows))
        begin = end
    return shares


def _write(
    config: ConversationsConfig,
    output: str,
    parts_uri: str,
    shards: Sequence[Shard],
    parts: Parts,
    keys: RowKeys,
    decisions: Decisions,
) -> list[WrittenFile]:
    """The artifact's files, out of the parts. Rows keep the order of sets, files and lines."""
    before = first_lines(shards, {shard.key: part.metrics["lines"] for shard, part in parts})
    names = {
        **{f"{split}_{prompt}": (PROMPT_FILES if prompt else FILES)[split]
           for split in ("train", "heldout") for prompt in ((False, True) if config.keep_prompts else (False,))},
    }  # fmt: skip
    with ExitStack() as stack:
        sides = {key: stack.enter_context(row_file(output, name, ROW_SCHEMA)) for key, name in names.items()}
        dropped = stack.enter_context(row_file(output, DROPPED_FILE, DROPPED_SCHEMA))
        quarantined = stack.enter_context(row_file(output, QUARANTINE_FILE, QUARANTINED_SCHEMA))
        first = 0
        for shard, part in parts:
            shift = before[shard.key]
            for table in _tables(parts_uri, part, "rows"):
                rows = np.arange(first, first + len(table))
                _add_rows(_shifted(table, shift), rows, keys, decisions, sides, dropped)
                first += len(table)
            for role, file in (("dropped", dropped), ("quarantined", quarantined)):
                for table in _tables(parts_uri, part, role):
                    file.add(_shifted(table, shift))
        return [file.close() for file in (*sides.values(), dropped, quarantined)]


def _add_rows(
    table: pa.Table,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    keys: RowKeys,
    decisions: Decisions,
    sides: Mapping[str, RowFile],
    dropped: RowFile,
) -> None:
    copies, reasons = decisions.copies_N[rows], decisions.reason_N[rows]
    for split, is_side in (("train", ~decisions.is_heldout_N[rows]), ("heldout", decisions.is_heldout_N[rows])):
        for prompt in (False, True):
            chosen = np.flatnonzero(is_side & (keys.is_prompt_N[rows] == prompt) & (copies > 0))
            if len(chosen):
                sides[f"{split}_{prompt}"].add(table.take(np.repeat(chosen, copies[chosen])))
    left_out = np.flatnonzero(reasons)
    if len(left_out):
        words = pa.array([REASONS[reason] for reason in reasons[left_out]], pa.string())
        dropped.add(table.take(left_out).append_column(DROPPED_SCHEMA.field("reason"), words))


def _shifted(table: pa.Table, lines: int) -> pa.Table:
    """The rows with lines counted from the file's beginning."""
    place = table.schema.get_field_index("line")
    return table.set_column(place, table.schema.field(place), pc.add(table.column(place), lines)) if lines else table


def _table(parts_uri: str, part: CommittedPart, role: str) -> pa.Table:
    return storage.read_table(storage.join(parts_uri, part.files[role].name))


def _tables(parts_uri: str, part: CommittedPart, role: str) -> Iterator[pa.Table]:
    with storage.open_table(storage.join(parts_uri, part.files[role].name)) as file:
        for batch in file.iter_batches(_COPIED_ROWS, use_threads=False):
            yield pa.Table.from_batches([batch])


def _metrics(
    config: ConversationsConfig,
    shards: Sequence[Shard],
    parts: Parts,
    keys: RowKeys,
    decisions: Decisions,
    sets: Sequence[SetShare],
) -> dict[str, Any]:
    """What became of the rows. Raises `StageFailed` where one is unaccounted for."""
    by_set = counts_by_set(decisions, keys.is_prompt_N, sets)
    totals = Counter[str]()
    for counts in by_set.values():
        totals.update(counts)
    dropped = Counter(_summed([part.metrics for _, part in parts], "dropped"))
    dropped.update({REASONS[r]: int(n) for r, n in enumerate(np.bincount(decisions.reason_N)) if r and n})
    quarantined = _summed([part.metrics for _, part in parts], "quarantined")
    num_rows = sum(part.metrics["read"] for _, part in parts)
    kept = totals["distinct_train"] + totals["heldout"] + totals["prompts"]
    if num_rows != kept + dropped.total() + sum(quarantined.values()):
        raise StageFailed(
            f"{num_rows} rows read, but {kept} kept, {dropped.total()} dropped and {sum(quarantined.values())}"
            " quarantined; this is a bug"
        )
    metrics = {
        "num_rows": num_rows,
        "num_train": totals["train"],
        "num_heldout": totals["heldout"],
        "num_dropped": dropped.total(),
        **{f"num_dropped_{reason}": count for reason, count in sorted(dropped.items())},
        "num_quarantined": sum(quarantined.values()),
        "quarantined_by_reason": quarantined,
    }
    if totals["train"] != totals["distinct_train"]:
        metrics["num_distinct_train"] = totals["distinct_train"]
    if config.keep_prompts:
        metrics["num_prompts"] = totals["prompts"]
    for name in ("mended", "found"):
        if counts := _summed([part.metrics for _, part in parts], name):
            metrics[name] = counts
    if config.sets:
        metrics["by_set"] = {
            name: {
                "read": sum(part.metrics["read"] for shard, part in parts if shard.set_name == name),
                **counts,
                "dropped": counts["dropped"]
                + sum(sum(part.metrics["dropped"].values()) for shard, part in parts if shard.set_name == name),
                "quarantined": sum(
                    sum(part.metrics["quarantined"].values()) for shard, part in parts if shard.set_name == name
                ),
            }
            for name, counts in by_set.items()
        }
    return metrics


def _summed(metrics: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
    total = Counter[str]()
    for each in metrics:
        total.update(each[name])
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
