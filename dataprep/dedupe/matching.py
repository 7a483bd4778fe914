"""From match rules to groups of duplicates, on Ray.

1. A task for each pack of shards writes the documents' keys (`keyed_shuffle.py`), for every rule.
2. A task for each range of keys (`MatchTask`) reads the rows of that range from all packs, joins those that the rule
   says are duplicates, and commits a spanning forest of the edges between them.
3. The driver joins all forests by one union-find over document indices, rule after rule.

What is committed stays: a stage that was killed goes on with the packs and forests that are missing.
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
from dataprep.dedupe.corpora import Corpora, ShardSlice
from dataprep.dedupe.keyed_shuffle import KeyedRows, even_ranges, num_ranges_for, read_cell, write_cells
from dataprep.dedupe.match_keys import MatchRule, keyed_rows
from dataprep.dedupe.removals import NEAR
from dataprep.ray_tasks import AlreadyDone, run_shard_tasks

_FOREST_SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64())])
_KEYS = "keys-"  # what the names of the packs' units begin with


@dataclass(frozen=True)
class MatchTask:
    """The work of one task: one range of the keys of some bands of a rule, taken one band after the other."""

    rule: str  # the rule's name
    first_key: int  # the number of its first band; 0 for a rule of one key
    num_keys: int  # how many bands
    range: int  # the number of its range of keys
    num_ranges: int

    @property
    def name(self) -> str:
        """The name of the unit that its forest is committed as."""
        last = self.first_key + self.num_keys - 1
        return f"{self.rule}-{self.first_key:04d}-{last:04d}-{self.range:06d}-of-{self.num_ranges:06d}"


def group_labels(
    rules: Sequence[MatchRule], corpora: Corpora, *, config: DedupeConfig, work: str, context: StageContext
) -> dict[str, npt.NDArray[Any]]:
    """Reason -> [N] the lowest member of each document's group, by the rules up to the one with that reason."""
    from dataprep.dedupe.union_find import UnionFind, label_bytes

    needed = label_bytes(corpora.num_documents) * (1 + len(rules))
    in_memory = needed <= config.union_find_gib * 2**30
    groups = UnionFind(corpora.num_documents, None if in_memory else context.scratch / "parents")
    memory_bytes = config.task_gib * 2**30
    tasks = {rule.name: _tasks(rule, corpora.num_documents, memory_bytes=memory_bytes) for rule in rules}
    forests = _forests(rules, tasks, corpora, config=config, work=work, context=context)
    found: dict[str, npt.NDArray[Any]] = {}
    for rule in rules:
        for task in tasks[rule.name]:
            groups.add(_read_forest(work, forests[task.name]))
        found[rule.reason] = groups.group_labels()
    return found or {NEAR: groups.group_labels()}


def _tasks(rule: MatchRule, num_documents: int, *, memory_bytes: float) -> list[MatchTask]:
    """A rule's work, divided so that no task holds more rows than `memory_bytes` has room for.

    A small corpus has several bands in one task, a larger one a task for each band, and a very large one a task for
    each range of the keys of a band.
    """
    num_ranges = num_ranges_for(num_documents, num_words=rule.num_words, memory_bytes=memory_bytes)
    at_once = rule.num_keys
    if num_ranges > 1:
        at_once = 1
    else:
        whole = num_ranges_for(rule.num_keys * num_documents, num_words=rule.num_words, memory_bytes=memory_bytes)
        at_once = -(-rule.num_keys // whole)
    return [
        MatchTask(rule.name, first, min(at_once, rule.num_keys - first), number, num_ranges)
        for first in range(0, rule.num_keys, at_once)
        for number in range(num_ranges)
    ]


def _forests(
    rules: Sequence[MatchRule],
    tasks: Mapping[str, Sequence[MatchTask]],
    corpora: Corpora,
    *,
    config: DedupeConfig,
    work: str,
    context: StageContext,
) -> dict[str, CommittedPart]:
    """The committed forest of each task, by its name. Files of keys are there only while forests are missing."""
    done = committed_parts(work)
    wanted = [task for of_rule in tasks.values() for task in of_rule]
    missing = [task for task in wanted if task.name not in done]
    if missing:
        num_ranges = {rule.name: tasks[rule.name][0].num_ranges for rule in rules}
        packs = _packs(rules, corpora, num_ranges, memory_bytes=config.task_gib * 2**30)
        run_shard_tasks(
            partial(_write_keys, rules=rules, num_ranges=num_ranges, work=work),
            [
                {
                    "uri": f"{key} (from {pack[0].shard.uri})",
                    "key": key,
                    "slices": [asdict(shard_slice) for shard_slice in pack],
                }
                for key, pack in packs.items()
                if key not in done
            ],
            workers=config.workers,
            max_workers=config.max_workers,
            progress=context.progress,
            already_done=AlreadyDone(sum(key in done for key in packs), 0),
            unit="packs",
        )
        done = committed_parts(work)
        files = {rule.name: [storage.join(work, done[key].files[rule.name].name) for key in packs] for rule in rules}
        run_shard_tasks(
            partial(_write_forest, rules=rules, files=files, work=work),
            [{"uri": task.name, **asdict(task)} for task in missing],
            workers=config.workers,
            max_workers=config.max_workers,
            progress=context.progress,
            already_done=AlreadyDone(len(wanted) - len(missing), 0),
            unit="ranges of keys",
        )
        done = committed_parts(work)
    for key in done:
        if key.startswith(_KEYS):
            remove_part(work, key)
    sweep(work)
    return done


def _packs(
    rules: Sequence[MatchRule], corpora: Corpora, num_ranges: Mapping[str, int], *, memory_bytes: float
) -> dict[str, list[ShardSlice]]:
    """The packs by the name of their unit.

    The name holds what depends on the settings (the number of ranges), so that a run that is resumed with other
    settings takes no file of keys that was divided otherwise.
    """
    per_document = max(2 * 8 * (rule.num_keys + 1 + rule.num_words) for rule in rules)
    ranges = "-".join(str(number) for number in num_ranges.values())
    return {
        f"{_KEYS}{pack[0].first:012d}-{pack[-1].end:012d}-of-{ranges}": pack
        for pack in corpora.packs(most_documents=max(1, int(memory_bytes / per_document)))
    }


def _write_keys(row: dict[str, Any], *, rules: Sequence[MatchRule], num_ranges: Mapping[str, int], work: str) -> int:
    slices = [ShardSlice.from_row(shard_slice) for shard_slice in row["slices"]]
    with commit_part(work, row["key"]) as part:
        for rule in rules:
            rows = KeyedRows.concatenated([rows for shard_slice in slices for rows in keyed_rows(rule, shard_slice)])
            with part.open(rule.name, f"{rule.name}.arrow") as sink:
                write_cells(sink, rows, even_ranges(num_ranges[rule.name]))
    return sum(shard_slice.num_documents for shard_slice in slices)


def _write_forest(
    row: dict[str, Any], *, rules: Sequence[MatchRule], files: Mapping[str, Sequence[str]], work: str
) -> int:
    from dataprep.dedupe.union_find import spanning_forest

    task = MatchTask(**{name: row[name] for name in MatchTask.__dataclass_fields__})
    (rule,) = (rule for rule in rules if rule.name == task.rule)
    edges = [
        rule.edges(read_cell(files[rule.name], key * task.num_ranges + task.range))
        for key in range(task.first_key, task.first_key + task.num_keys)
    ]
    forest = spanning_forest(np.concatenate(edges))
    with commit_part(work, task.name) as part, part.open("forest", "parquet") as sink:
        pq.write_table(pa.table({"a": forest[:, 0], "b": forest[:, 1]}, schema=_FOREST_SCHEMA), sink)
    return 0


def _read_forest(work: str, part: CommittedPart) -> npt.NDArray[np.int64]:
    forest = storage.read_table(check_size(work, part.files["forest"]))
    return np.stack([forest.column(name).to_numpy() for name in ("a", "b")], axis=1)
