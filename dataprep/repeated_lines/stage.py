"""The repeated-lines stage: lines that stand in many documents (menus, notices, footers) are cut from all of them.

It goes over the parts of a clean artifact three times. First each part's lines are counted. Then the counts of all
parts are added up, one range of lines after another. Last, each part is written without the lines that proved to be
repeated, and signed again.

A part is named by what it is made of and by those of its lines that are cut. So one more input costs its own counting,
adding up all counts, and writing the parts that have a line which it made repeated. A stage that was killed goes on
with the parts and ranges that are missing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import CommittedPart, WrittenFile, check_size, commit_part, committed_part
from cluster.contracts.errors import StageFailed
from cluster.contracts.retry import retrying_as_here
from dataprep.documents import Shard, read_shard_table, rebase, write_shard_table
from dataprep.kernel_cache import keep_compiled_kernels
from dataprep.ray_tasks import AlreadyDone, ShardTask, run_shard_tasks
from dataprep.repeated_lines.config import RepeatedLinesConfig
from dataprep.signatures.config import MinHashSettings

# Kernels are imported in the functions that tasks run, after `prepare_worker` has said where they are kept compiled.
# A task's arguments are unpickled before that, so none of them is of a module with kernels.

_ROWS_PER_RANGE = 1_500_000  # rows of counts, of 68 MB; three times as much while they are sorted
_READER_THREADS = 16
_LISTED_AT_ONCE = 1 << 20  # how many repeated lines a task holds at a time
_EXAMPLES = 50  # how many of the most repeated lines are in the metrics
_COUNTS = "counts"  # below the directory of parts: the counts of each part
_LISTS, _CHOSEN = "repeated", "chosen"  # below the artifact: the repeated lines; which part was made of each shard


def run(config: RepeatedLinesConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Make the parts of a clean artifact without the repeated lines, then the shard table."""
    keep_compiled_kernels()
    clean = inputs["parts"]
    minhash = MinHashSettings.model_validate(clean.manifest.config["minhash"])
    shards = [rebase(shard, old=clean.uri, new=output) for shard in read_shard_table(clean.uri)]
    counts = storage.join(context.parts_directory, _COUNTS)
    lists, chosen = storage.join(output, _LISTS), storage.join(output, _CHOSEN)

    context.progress.note("counting lines")
    largest_first = [(s, asdict(s)) for s in sorted(shards, key=lambda shard: (-shard.num_characters, shard.number))]
    to_count = {_count_key(shard): row for shard, row in largest_first}
    _over(to_count, counts, partial(_count, output=output, counts=counts, config=config), config, context)
    listed = _find_repeated(shards, counts, lists, config, context)
    num_listed = sum(part.metrics["lines"] + part.metrics["lines_of_sites"] for part in listed)
    context.progress.note(f"cutting {num_listed:,} repeated lines")
    task = partial(
        _rewrite, output=output, counts=counts, lists=lists, names=[part.key for part in listed], chosen=chosen,
        parts=context.parts_directory, config=config, minhash=minhash,
    )  # fmt: skip
    _over({_source_key(shard): row for shard, row in largest_first}, chosen, task, config, context)

    parts = [_written(context.parts_directory, chosen, shard) for shard in shards]
    table = [
        _shard(shard, part, storage.relative_uri(context.parts_directory, base=output))
        for shard, part in zip(shards, parts, strict=True)
    ]
    metrics = _metrics([part.metrics for part in parts]) | {
        "repeated_lines": sum(part.metrics["lines"] for part in listed),
        "repeated_lines_of_sites": sum(part.metrics["lines_of_sites"] for part in listed),
        "most_repeated": _most_repeated(listed, lists, parts, context.parts_directory),
        "minhash": minhash.model_dump(mode="json"),
        "signed_after_pii": clean.manifest.config.get("pii") is not None,  # signatures have seen placeholders
    }
    files = [
        WrittenFile(f"{_LISTS}/{file.name}", file.size, file.sha256) for part in listed for file in part.files.values()
    ]
    return StageResult(metrics, [write_shard_table(output, table), *files])


def _over(
    units: Mapping[str, dict[str, Any]],
    directory: str,
    task: ShardTask,
    config: RepeatedLinesConfig,
    context: StageContext,
    *,
    unit: str = "shards",
) -> None:
    """Run `task` on the units (key -> description) that are not committed in `directory` yet."""
    todo = [row for key, row in units.items() if committed_part(directory, key) is None]
    run_shard_tasks(
        task,
        todo,
        workers=config.workers,
        max_workers=config.max_workers,
        progress=context.progress,
        already_done=AlreadyDone(len(units) - len(todo), 0),
        log_directory=context.log_directory,
        unit=unit,
    )


def _count_key(shard: Shard) -> str:
    """The key of a part's counts, which depend on its documents alone.

    Two parts have the same key only if both are empty, since rows name the input that they are from.
    """
    return shard.documents.sha256[:32]


def _source_key(shard: Shard) -> str:
    """A key for all that a new part is made from; the old signatures stand for the settings of the new ones."""
    files = " ".join(file.sha256 for file in shard.part_files())
    return hashlib.sha256(files.encode()).hexdigest()[:32]


def _count(row: dict[str, Any], *, output: str, counts: str, config: RepeatedLinesConfig) -> int:
    from dataprep.repeated_lines.part import count_part

    shard = Shard.from_row(row)
    return count_part(output, shard, counts=counts, key=_count_key(shard), config=config)


def _find_repeated(
    shards: Sequence[Shard], counts: str, lists: str, config: RepeatedLinesConfig, context: StageContext
) -> list[CommittedPart]:
    """Add up the counts of all parts; the repeated lines of each range of keys are one unit of `lists`."""
    from dataprep.repeated_lines.line_counts import key_ranges

    keys = sorted({_count_key(shard) for shard in shards})
    context.progress.note("adding up the counts")
    with ThreadPoolExecutor(_READER_THREADS) as pool:
        num_rows = sum(pool.map(retrying_as_here(lambda key: _counted(counts, key).metrics["rows"]), keys))
    ranges = {
        _range_name(number): {
            "uri": f"lines {first:016x} to {last:016x}",
            "number": number,
            "first": first,
            "last": last,
        }
        for number, (first, last) in enumerate(key_ranges(num_rows, rows_per_range=_ROWS_PER_RANGE))
    }
    num_documents = sum(shard.num_documents for shard in shards)
    task = partial(_add_up, counts=counts, keys=keys, lists=lists, config=config, num_documents=num_documents)
    _over(ranges, lists, task, config, context, unit="ranges of lines")
    parts = [committed_part(lists, name) for name in ranges]
    return [part for part in parts if part is not None]


def _range_name(number: int) -> str:
    return f"range-{number:05d}"


def _add_up(
    row: dict[str, Any],
    *,
    counts: str,
    keys: Sequence[str],
    lists: str,
    config: RepeatedLinesConfig,
    num_documents: int,
) -> int:
    """Add up the counts of all parts in one range of keys, and commit the lines there that are repeated."""
    from dataprep.repeated_lines.line_counts import COUNT_SCHEMA, SITE, repeated
    from dataprep.repeated_lines.part import thresholds

    within = [("line", ">=", np.uint64(row["first"])), ("line", "<=", np.uint64(row["last"]))]

    def read(key: str) -> pa.Table:
        return _read(counts, _counted(counts, key).files["counts"], filters=within)

    with ThreadPoolExecutor(_READER_THREADS) as pool:
        rows = pa.concat_tables([COUNT_SCHEMA.empty_table(), *pool.map(retrying_as_here(read), keys)])
    found = repeated(rows, thresholds(config, num_documents=num_documents))
    with commit_part(lists, _range_name(row["number"])) as unit:
        with unit.open("lines", "lines.parquet") as sink:
            pq.write_table(found, sink, compression="zstd")
        of_sites = pc.sum(pc.equal(found.column("scope"), SITE)).as_py() or 0
        unit.metrics.update(lines=found.num_rows - of_sites, lines_of_sites=of_sites)
    return 0


def _counted(counts: str, key: str) -> CommittedPart:
    part = committed_part(counts, key)
    assert part is not None, "run_shard_tasks raises for a shard without a part"
    return part


def _rewrite(
    row: dict[str, Any],
    *,
    output: str,
    counts: str,
    lists: str,
    names: Sequence[str],
    chosen: str,
    parts: str,
    config: RepeatedLinesConfig,
    minhash: MinHashSettings,
) -> int:
    """Write a shard's part, unless one with the same lines cut is there, and commit which part it is."""
    from dataprep.repeated_lines.line_keys import listed_among
    from dataprep.repeated_lines.part import rewrite_part

    shard = Shard.from_row(row)
    own = np.unique(
        _read(counts, _counted(counts, _count_key(shard)).files["counts"], columns=["line"]).column("line").to_numpy()
    )
    hits = np.concatenate([np.empty(0, np.uint64), *(listed_among(own, some) for some in _listed(lists, names))])
    hits.sort()
    key = f"{_source_key(shard)}-{hashlib.sha256(hits.tobytes()).hexdigest()[:16]}"
    if committed_part(parts, key) is None:
        rewrite_part(output, shard, parts=parts, key=key, hits=hits, config=config, minhash=minhash)
    with commit_part(chosen, _source_key(shard)) as choice:
        choice.metrics["part"] = key
    return shard.num_documents


def _listed(lists: str, names: Sequence[str]) -> Iterator[npt.NDArray[np.uint64]]:
    """The keys of all repeated lines, some at a time; those that come together are sorted."""
    for name in names:
        part = committed_part(lists, name)
        assert part is not None
        with storage.open_table(check_size(lists, part.files["lines"])) as file:
            for batch in file.iter_batches(_LISTED_AT_ONCE, columns=["line"]):
                yield batch.column("line").to_numpy()


def _written(parts: str, chosen: str, shard: Shard) -> CommittedPart:
    choice = committed_part(chosen, _source_key(shard))
    assert choice is not None, "run_shard_tasks raises for a shard without a part"
    part = committed_part(parts, choice.metrics["part"])
    assert part is not None, "a choice is committed after its part"
    return part


def _shard(shard: Shard, part: CommittedPart, parts: str) -> Shard:
    files = {
        role: part.files.get(role) for role in ("documents", "signatures", "dropped", "quarantined", "contamination")
    }
    figures = {"num_documents": part.metrics["kept"], "num_characters": part.metrics["characters_kept"]}
    return replace(shard, key=part.key, parts=parts, **figures, **files)  # type: ignore[arg-type]


def _most_repeated(
    listed: Sequence[CommittedPart], lists: str, parts: Sequence[CommittedPart], directory: str
) -> list[dict[str, Any]]:
    """The lines that are in the most documents, as they look in the first part that has them."""
    from dataprep.repeated_lines.line_counts import SITE

    tables = [_read(lists, part.files["lines"]) for part in listed]
    order = [("documents", "descending"), ("line", "ascending")]
    top = pa.concat_tables(table.sort_by(order).slice(0, _EXAMPLES) for table in tables).sort_by(order)
    wanted = {(row["line"], row["scope"]): row["documents"] for row in top.slice(0, _EXAMPLES).to_pylist()}
    texts: dict[tuple[int, int], str] = {}
    keys = pa.array([line for line, _ in wanted], pa.uint64())
    for part in parts:
        if len(texts) == len(wanted):
            break
        for row in _read(directory, part.files["cut"], filters=pc.field("line").isin(keys)).to_pylist():
            texts.setdefault((row["line"], row["scope"]), row["text"])
    return [
        {"documents": documents, "within": "site" if key[1] == SITE else "corpus", "text": texts.get(key, "")}
        for key, documents in wanted.items()
    ]


def _read(directory: str, file: WrittenFile, **options: Any) -> pa.Table:
    return storage.read_table(check_size(directory, file), **options)


def _metrics(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over all parts. Raises `StageFailed` where a document is unaccounted for."""
    names = ("documents", "kept", "lines", "cut_lines", "cut_characters", "cut_documents", "characters_kept")
    sums = {name: sum(part[name] for part in parts) for name in names}
    dropped: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for part in parts:
        dropped.update(part["dropped"])
        languages.update(part["languages"])
    if sums["documents"] != sums["kept"] + dropped.total():
        raise StageFailed(
            f"repeated_lines: {sums['documents']} documents, but {sums['kept']} kept and {dropped.total()} dropped;"
            " this is a bug"
        )
    return {**sums, "dropped": dict(dropped), "languages": dict(languages.most_common())}
