"""The clean stage: one task per input file, no shuffle; each leaves a part that other artifacts can share.

A part is named by its input file's URI, size and time, and lies in a directory named by the settings. So one
more WARC costs one more WARC, and a killed run goes on with the files that are left.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import CommittedPart, committed_part
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.storage import FileStat, relative_uri
from dataprep.config import CleanConfig
from dataprep.documents import Shard, write_shard_table
from dataprep.over_shards import Pace, over_shards
from dataprep.sources.formats import format_of

_NAME_CHARACTERS = 80  # of a part's key, for people; the hash behind it is what tells parts apart


def run(config: CleanConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Make the parts that are not there yet, then the artifact's shard table."""
    files = input_files(config.inputs)
    parts = context.parts_directory
    keys = {file.uri: part_key(file) for file in files}
    done = {uri: part for uri, key in keys.items() if (part := committed_part(parts, key)) is not None}
    if done:
        context.progress.note(f"{len(done)} of {len(files)} input files were cleaned before with these settings")
    over_shards(
        partial(_clean, parts=parts, config=config),
        [{"uri": file.uri, "key": keys[file.uri]} for file in _largest_first(files) if file.uri not in done],
        workers=config.workers,
        max_workers=config.max_workers,
        progress=context.progress,
        before=Pace(len(done), sum(part.metrics["kept"] for part in done.values())),
    )
    committed = []
    for file in files:
        part = done.get(file.uri) or committed_part(parts, keys[file.uri])
        assert part is not None, "over_shards raises for a shard without a part"
        committed.append(part)
    shards = [
        _shard(number, file.uri, part, relative_uri(parts, base=output))
        for number, (file, part) in enumerate(zip(files, committed, strict=True))
    ]
    metrics = _metrics([part.metrics for part in committed], bytes_in=sum(file.size for file in files))
    return StageResult(metrics, [write_shard_table(output, shards)])


def input_files(patterns: Sequence[str]) -> list[FileStat]:
    """The files of all patterns, each once, sorted by URI.

    Raises `InputError` where a pattern matches nothing or a file has a format that no reader takes.
    """
    found: dict[str, FileStat] = {}
    for pattern in patterns:
        matched = storage.expand(pattern)
        if not matched:
            raise InputError(f"inputs: {pattern} matches no file")
        found.update((file.uri, file) for file in matched)
    for uri in found:
        format_of(uri)
    return [found[uri] for uri in sorted(found)]


def part_key(file: FileStat) -> str:
    """The commit key of a file's part: readable, and different for another file or another version of it."""
    identity = hashlib.sha256(f"{file.uri}\n{file.size}\n{file.mtime_ns}".encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.uri.rsplit("/", 1)[-1])[:_NAME_CHARACTERS]
    return f"{name.lstrip('.-_') or 'part'}-{identity}"


def _clean(row: dict[str, Any], *, parts: str, config: CleanConfig) -> int:
    # Imported in the task, after `prepare_worker` has said where compiled kernels are kept.
    from dataprep.clean_part import clean_part

    return clean_part(row["uri"], parts=parts, key=row["key"], config=config)


def _largest_first(files: Sequence[FileStat]) -> list[FileStat]:
    """So that no large file begins when all others are done."""
    return sorted(files, key=lambda file: (-file.size, file.uri))


def _shard(number: int, uri: str, part: CommittedPart, parts: str) -> Shard:
    return Shard(
        number=number,
        uri=uri,
        key=part.key,
        parts=parts,
        num_documents=part.metrics["kept"],
        num_characters=part.metrics["characters_kept"],
        documents=part.files["documents"],
        signatures=part.files["signatures"],
        dropped=part.files["dropped"],
        quarantined=part.files["quarantined"],
    )


def _metrics(parts: Sequence[Mapping[str, Any]], *, bytes_in: int) -> dict[str, Any]:
    """The sums over all parts. Raises `StageFailed` where a row is unaccounted for."""

    def total(figure: str) -> int:
        return sum(part[figure] for part in parts)

    def totals(figure: str) -> dict[str, int]:
        counter: Counter[str] = Counter()
        for part in parts:
            counter.update(part[figure])
        return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))

    dropped, quarantine_reasons = totals("dropped"), totals("quarantine_reasons")
    read, kept, quarantined = total("read"), total("kept"), sum(quarantine_reasons.values())
    if read != kept + sum(dropped.values()) + quarantined:
        raise StageFailed(
            f"clean: {read} records read, but {kept} kept, {sum(dropped.values())} dropped and {quarantined}"
            " quarantined; this is a bug"
        )
    return {
        "read": read,
        "kept": kept,
        "dropped": dropped,
        "quarantined": quarantined,
        "quarantine_reasons": quarantine_reasons,
        "languages": totals("languages"),
        "languages_seen": totals("languages_seen"),
        "bytes_in": bytes_in,
        "characters_kept": total("characters_kept"),
        "shards": len(parts),
    }
