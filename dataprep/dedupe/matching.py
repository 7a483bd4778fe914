"""From searches to groups of duplicates on Ray: each pack of parts writes its keys, each cell becomes a forest.

The forests are joined in the driver by one union-find over dense indices, in the order of the searches. What is
committed stays: a killed stage goes on with the packs and forests that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.artifacts import StageContext
from cluster.contracts.commit import CommittedPart, check_size, commit_part, committed_parts, remove_part, sweep
from dataprep.dedupe.config import DedupeConfig
from dataprep.dedupe.corpora import Corpora, Piece
from dataprep.dedupe.keyed_shuffle import KeyedRows, even_ranges, num_ranges_for, read_cell, write_cells
from dataprep.dedupe.match_keys import MatchRule, keyed_rows
from dataprep.dedupe.removals import NEAR
from dataprep.ray_tasks import AlreadyDone, run_shard_tasks

_FOREST_SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64())])
_KEYS = "keys-"  # begins the names of the packs' units


@dataclass(frozen=True)
class Task:
    """A unit of searching: one range of the keys of some bands, which are taken one after the other."""

    search: str
    first_key: int
    num_keys: int
    range: int
    num_ranges: int

    @property
    def name(self) -> str:
        """Of its committed forest."""
        last = self.first_key + self.num_keys - 1
        return f"{self.search}-{self.first_key:04d}-{last:04d}-{self.range:06d}-of-{self.num_ranges:06d}"


def labels(
    plan: Sequence[MatchRule], corpora: Corpora, *, config: DedupeConfig, work: str, context: StageContext
) -> dict[str, npt.NDArray[Any]]:
    """Reason -> the lowest member of each document's group after the searches up to that reason."""
    from dataprep.dedupe.union_find import UnionFind, label_bytes

    needed = label_bytes(corpora.num_documents) * (1 + len(plan))
    in_memory = needed <= config.union_find_gib * 2**30
    groups = UnionFind(corpora.num_documents, None if in_memory else context.scratch / "parents")
    memory_bytes = config.task_gib * 2**30
    tasks = {search.name: _tasks(search, corpora.num_documents, memory_bytes=memory_bytes) for search in plan}
    forests = _forests(plan, tasks, corpora, config=config, work=work, context=context)
    found: dict[str, npt.NDArray[Any]] = {}
    for search in plan:
        for task in tasks[search.name]:
            groups.add(_read_forest(work, forests[task.name]))
        found[search.reason] = groups.group_labels()
    return found or {NEAR: groups.group_labels()}


def _tasks(search: MatchRule, num_documents: int, *, memory_bytes: float) -> list[Task]:
    """Small corpora: many bands a task; then a task for each band; then one for each range of a band."""
    num_ranges = num_ranges_for(num_documents, num_words=search.num_words, memory_bytes=memory_bytes)
    at_once = search.num_keys
    if num_ranges > 1:
        at_once = 1
    else:
        whole = num_ranges_for(search.num_keys * num_documents, num_words=search.num_words, memory_bytes=memory_bytes)
        at_once = -(-search.num_keys // whole)
    return [
        Task(search.name, first, min(at_once, search.num_keys - first), number, num_ranges)
        for first in range(0, search.num_keys, at_once)
        for number in range(num_ranges)
    ]


def _forests(
    plan: Sequence[MatchRule],
    tasks: Mapping[str, Sequence[Task]],
    corpora: Corpora,
    *,
    config: DedupeConfig,
    work: str,
    context: StageContext,
) -> dict[str, CommittedPart]:
    """The committed forest of each task, by its name; the keys are there only while forests are missing."""
    done = committed_parts(work)
    wanted = [task for of_search in tasks.values() for task in of_search]
    missing = [task for task in wanted if task.name not in done]
    if missing:
        num_ranges = {search.name: tasks[search.name][0].num_ranges for search in plan}
        packs = _packs(plan, corpora, num_ranges, memory_bytes=config.task_gib * 2**30)
        run_shard_tasks(
            partial(_write_keys, plan=plan, num_ranges=num_ranges, work=work),
            [
                {"uri": f"{key} (from {pack[0].shard.uri})", "key": key, "pieces": [asdict(piece) for piece in pack]}
                for key, pack in packs.items()
                if key not in done
            ],
            workers=config.workers,
            max_workers=config.max_workers,
            progress=context.progress,
            before=AlreadyDone(sum(key in done for key in packs), 0),
            unit="packs",
        )
        done = committed_parts(work)
        files = {
            search.name: [storage.join(work, done[key].files[search.name].name) for key in packs] for search in plan
        }
        run_shard_tasks(
            partial(_write_forest, plan=plan, files=files, work=work),
            [{"uri": task.name, **asdict(task)} for task in missing],
            workers=config.workers,
            max_workers=config.max_workers,
            progress=context.progress,
            before=AlreadyDone(len(wanted) - len(missing), 0),
            unit="searches",
        )
        done = committed_parts(work)
    for key in done:
        if key.startswith(_KEYS):
            remove_part(work, key)
    sweep(work)
    return done


def _packs(
    plan: Sequence[MatchRule], corpora: Corpora, num_ranges: Mapping[str, int], *, memory_bytes: float
) -> dict[str, list[Piece]]:
    """By the name of their unit, which says what follows from the settings: who continues may have others."""
    per_document = max(2 * 8 * (search.num_keys + 1 + search.num_words) for search in plan)
    ranges = "-".join(str(number) for number in num_ranges.values())
    return {
        f"{_KEYS}{pack[0].first:012d}-{pack[-1].end:012d}-of-{ranges}": pack
        for pack in corpora.packs(most_documents=max(1, int(memory_bytes / per_document)))
    }


def _write_keys(row: dict[str, Any], *, plan: Sequence[MatchRule], num_ranges: Mapping[str, int], work: str) -> int:
    pieces = [Piece.from_row(piece) for piece in row["pieces"]]
    with commit_part(work, row["key"]) as part:
        for search in plan:
            rows = KeyedRows.concatenated([rows for piece in pieces for rows in keyed_rows(search, piece)])
            with part.open(search.name, f"{search.name}.arrow") as sink:
                write_cells(sink, rows, even_ranges(num_ranges[search.name]))
    return sum(piece.num_documents for piece in pieces)


def _write_forest(
    row: dict[str, Any], *, plan: Sequence[MatchRule], files: Mapping[str, Sequence[str]], work: str
) -> int:
    from dataprep.dedupe.union_find import spanning_forest

    task = Task(**{name: row[name] for name in Task.__dataclass_fields__})
    (search,) = (search for search in plan if search.name == task.search)
    edges = [
        search.edges(read_cell(files[search.name], key * task.num_ranges + task.range))
        for key in range(task.first_key, task.first_key + task.num_keys)
    ]
    forest = spanning_forest(np.concatenate(edges))
    with commit_part(work, task.name) as part, part.open("forest", "parquet") as sink:
        pq.write_table(pa.table({"a": forest[:, 0], "b": forest[:, 1]}, schema=_FOREST_SCHEMA), sink)
    return 0


def _read_forest(work: str, part: CommittedPart) -> npt.NDArray[np.int64]:
    forest = storage.read_table(check_size(work, part.files["forest"]))
    return np.stack([forest.column(name).to_numpy() for name in ("a", "b")], axis=1)
