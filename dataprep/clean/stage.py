"""The clean stage: one task for each input shard, which leaves a part that other artifacts can share.

A part is named by the URIs, sizes and times of its input files, and lies in a directory named by the settings. So one
more WARC file costs the work on one more, and a run that was killed goes on with the shards that are left.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.commit import CommittedPart, committed_part
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.source_names import input_directories
from cluster.contracts.storage import relative_uri
from dataprep.clean.config import CleanConfig
from dataprep.documents import Shard, write_shard_table
from dataprep.filters.config import DecontaminationSettings
from dataprep.kernel_cache import keep_compiled_kernels
from dataprep.ray_tasks import AlreadyDone, run_shard_tasks
from dataprep.sources.formats import Format
from dataprep.sources.shards import SourceShard, each_once, matched_files, plan_shards, sources_of


def run(config: CleanConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Make the parts that are not there yet, then the shard table. Raises `InputError`, `StageFailed`."""
    matched = matched_files(config.inputs)
    files = each_once(matched)
    directories = input_directories([file.uri for file in each] for each in matched)
    shards = plan_shards(files, config.format, directories=directories)
    check_libraries(config, {source.format for shard in shards for source in shard.sources})
    left_out = {} if config.decontamination is None else _items_left_out(config.decontamination, context)
    parts, classifier = context.parts_directory, None
    if "classifier" in inputs:  # parts are shared by settings, to which a trained model does not belong
        parts = storage.join(parts, inputs["classifier"].manifest.fingerprint)
        classifier = inputs["classifier"].path("model.bin")
    done = {shard.key: part for shard in shards if (part := committed_part(parts, shard.key)) is not None}
    if done:
        context.progress.note(f"{len(done)} of {len(shards)} shards were cleaned before with these settings")
    run_shard_tasks(
        partial(_clean, parts=parts, config=config, classifier=classifier),
        [shard.to_row() for shard in _largest_first(shards) if shard.key not in done],
        workers=config.workers,
        max_workers=config.max_workers,
        progress=context.progress,
        already_done=AlreadyDone(len(done), sum(part.metrics["kept"] for part in done.values())),
        log_directory=context.log_directory,
    )
    committed = []
    for shard in shards:
        part = done.get(shard.key) or committed_part(parts, shard.key)
        assert part is not None, "run_shard_tasks raises for a shard without a part"
        committed.append(part)
    table = [
        _shard(number, shard.source, part, relative_uri(parts, base=output))
        for number, (shard, part) in enumerate(zip(shards, committed, strict=True))
    ]
    metrics = _metrics([part.metrics for part in committed], bytes_in=sum(file.size for file in files))
    if config.decontamination is not None:
        metrics["evaluation_texts_left_out"] = left_out
    return StageResult(metrics, [write_shard_table(output, table)])


def _items_left_out(settings: DecontaminationSettings, context: StageContext) -> dict[str, int]:
    """URI of an evaluation file -> how many of its texts are too short to be looked for; notes that for the user."""
    keep_compiled_kernels()
    from dataprep.filters.decontamination import items_left_out  # imported after that, since it has kernels

    found = items_left_out(settings)
    for file, (count, left_out) in found.items():
        if left_out:
            what = f"WARNING: all {count:,}" if left_out == count else f"{left_out:,} of the {count:,}"
            context.progress.note(
                f"decontamination: {what} texts of {file} have under {settings.min_terms} words (min_terms), or more"
                " numbers than words, and are not looked for"
            )
    return {file: left_out for file, (_, left_out) in found.items() if left_out}


def check_libraries(config: CleanConfig, formats: Set[Format]) -> None:
    """Raise `InputError` where a setting or an input's format needs a library that is not installed."""
    needed = {
        "trafilatura": (config.extractor == "trafilatura", "extractor: trafilatura"),
        "ftfy": (config.fix_mojibake, "fix_mojibake: true"),
        "mwparserfromhell": ("mediawiki" in formats, "MediaWiki dumps"),
    }
    for library, (wanted, reason) in needed.items():
        if wanted and importlib.util.find_spec(library) is None:
            raise InputError(f'{reason} needs {library}; install it with: pip install "raymill[text]"')


def _clean(row: dict[str, Any], *, parts: str, config: CleanConfig, classifier: str | None) -> int:
    # Imported in the task, after `prepare_worker` has said where compiled kernels are kept.
    from dataprep.clean.part import clean_part

    return clean_part(sources_of(row), parts=parts, key=row["key"], config=config, classifier=classifier)


def _largest_first(shards: Sequence[SourceShard]) -> list[SourceShard]:
    """The shards in an order in which no large one begins when all others are done."""
    return sorted(shards, key=lambda shard: (-shard.num_bytes, shard.key))


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
        contamination=part.files.get("contamination"),
    )


def _metrics(parts: Sequence[Mapping[str, Any]], *, bytes_in: int) -> dict[str, Any]:
    """The sums over all parts. Raises `StageFailed` where a record is unaccounted for."""

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
        "pii": totals("pii"),
        "pii_documents": total("pii_documents"),
        "contamination": totals("contamination"),
        "bytes_in": bytes_in,
        "characters_kept": total("characters_kept"),
        "shards": len(parts),
    }
