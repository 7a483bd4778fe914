"""The dedupe stage: finds duplicates across all parts and lists, for each part, the rows that go.

No document is rewritten: the artifact is the shard table of the clean stage with a list of removed rows beside each
part. The match rules (`match_keys.py`) bring documents together by keys (`keyed_shuffle.py`), `matching.py` makes
groups of them, `removals.py` says who survives. Earlier corpora take part by the signatures they have; their documents
stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.errors import InputError, StageFailed
from dataprep.dedupe.clusters import write_clusters
from dataprep.dedupe.config import DedupeConfig
from dataprep.dedupe.corpora import OWN, Corpora, ShardSlice
from dataprep.dedupe.match_keys import bands_and_rows, match_rules
from dataprep.dedupe.matching import group_labels
from dataprep.dedupe.removals import Removals, best_survivors, grouped
from dataprep.documents import (
    Shard,
    document_columns,
    read_columns,
    read_shard_table,
    rebase,
    write_shard_table,
    write_table,
)
from dataprep.kernel_cache import keep_compiled_kernels
from dataprep.signatures.config import MinHashSettings

_WRITER_THREADS = 16
_WORK = "work"  # below the artifact: where keys, forests and members of clusters are committed on the way


def run(config: DedupeConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Find the duplicates in a clean artifact; write its shard table again, with the removals, and the clusters."""
    keep_compiled_kernels()
    clean = inputs["parts"]
    against = [inputs[role] for role in sorted(inputs, key=_list_position) if role != "parts"]
    settings = _common_signatures(clean, against)
    if (warning := _mixed_signatures(clean, against)) is not None:
        context.progress.note(warning)
    shards = [rebase(shard, old=clean.uri, new=output) for shard in read_shard_table(clean.uri)]
    if config.keep_best is not None and shards:
        _check_score(config.keep_best, document_columns(output, shards[0]), clean.uri)
    corpora = Corpora.of((output, shards), [(earlier.uri, read_shard_table(earlier.uri)) for earlier in against])
    if corpora.num_documents == corpora.own_first:
        raise InputError(f"{clean.uri} has no documents; `raymill inspect` on it tells what was dropped and why")

    work = storage.join(output, _WORK)
    rules = match_rules(config, num_hashes=settings.num_hashes)
    found = group_labels(rules, corpora, config=config, work=work, context=context)
    removals = Removals(corpora, found, _survivors(config, corpora, found))
    written, counts = _write_removals(output, removals)
    clusters = []
    if config.clusters:
        context.progress.note("writing the clusters")
        clusters = write_clusters(
            output, work, removals, num_hashes=settings.num_hashes, config=config, context=context
        )
    files = [shard.removals for shard in written if shard.removals is not None] + clusters
    metrics = _metrics(removals, written, counts) | {
        "minhash": settings.model_dump(mode="json"),
        "signed_after_pii": _signed_after_pii(clean),
    }
    if config.fuzzy is not None:
        metrics["bands"], metrics["rows"] = bands_and_rows(config.fuzzy, settings.num_hashes)
    return StageResult(metrics, [write_shard_table(output, written), *files])


def _list_position(role: str) -> int:
    """The number in a role like `against.9`, so that `against.10` comes after it; -1 for other roles."""
    position = role.partition(".")[2]
    return int(position) if position else -1


def _common_signatures(clean: Artifact, against: list[Artifact]) -> MinHashSettings:
    """The signature settings that all corpora share, with as many hashes as the shortest signatures have.

    A longer signature begins with the shorter one, so that many hashes of each can be compared.

    Raises `InputError` where the shingles or the hash functions differ.
    """
    settings = _signature_settings(clean)
    for earlier in against:
        other = _signature_settings(earlier)
        if (other.ngram, other.seed) != (settings.ngram, settings.seed):
            raise InputError(
                f"against: {earlier.uri} was signed with ngram {other.ngram} and seed {other.seed}, {clean.uri} with"
                f" {settings.ngram} and {settings.seed}; clean one of them again with the other's minhash settings"
            )
        settings = settings.model_copy(update={"num_hashes": min(settings.num_hashes, other.num_hashes)})
    return settings


def _signature_settings(artifact: Artifact) -> MinHashSettings:
    found = artifact.manifest.config.get("minhash") or artifact.manifest.metrics.get("minhash")
    if found is None:
        raise InputError(f"{artifact.uri} holds no signed documents: its manifest names no minhash settings")
    return MinHashSettings.model_validate(found)


def _signed_after_pii(artifact: Artifact) -> bool:
    """Whether signatures are of texts with placeholders for personal data; those of a clean stage never are."""
    return bool(artifact.manifest.metrics.get("signed_after_pii", False))


def _mixed_signatures(clean: Artifact, against: list[Artifact]) -> str | None:
    """A warning where some corpora were signed before personal data was replaced and others after; else None."""
    others = [earlier.uri for earlier in against if _signed_after_pii(earlier) != _signed_after_pii(clean)]
    if not others:
        return None
    when, otherwise = ("after", "before") if _signed_after_pii(clean) else ("before", "after")
    return (
        f"{clean.uri} was signed {when} personal data was replaced, {', '.join(others)} {otherwise} that:"
        " copies with personal data in them may be missed"
    )


def _survivors(config: DedupeConfig, corpora: Corpora, labels: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    final = list(labels.values())[-1]
    if config.keep_best is None:
        return final
    members = grouped(final)
    scores = [np.full(int(np.searchsorted(members, corpora.own_first)), np.inf)]  # of members in earlier corpora
    for shard_slice in corpora.own:
        begin, end = np.searchsorted(members, (shard_slice.first, shard_slice.first + shard_slice.shard.num_documents))
        if begin < end:
            scores.append(_scores(shard_slice, config.keep_best)[members[begin:end] - shard_slice.first])
    return best_survivors(final, members, np.concatenate(scores), own_first=corpora.own_first)


def _check_score(name: str, columns: pa.Schema, uri: str) -> None:
    """Raise `InputError` unless `name` is a column of numbers, or `family.score` of a family that annotated."""
    types: dict[str, pa.DataType] = {}
    for field in columns:
        types[field.name] = field.type
        if pa.types.is_struct(field.type):
            types |= {f"{field.name}.{score.name}": score.type for score in field.type}
    numbers = [n for n, kind in types.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
    if name not in numbers:
        wrong = f"{name!r} holds {types[name]}" if name in types else f"{uri} has no {name!r}"
        raise InputError(
            f"keep_best: {wrong}; a number is needed: {', '.join(numbers)} (a filter family in annotate mode adds its"
            " scores)"
        )


def _scores(shard_slice: ShardSlice, name: str) -> npt.NDArray[np.float64]:
    column, _, score = name.partition(".")
    found = read_columns(shard_slice.artifact, shard_slice.shard, [column]).column(column).combine_chunks()
    if score:
        found = pc.struct_field(found, score)
    scores: npt.NDArray[np.float64] = found.cast(pa.float64()).to_numpy(zero_copy_only=False)  # null becomes NaN
    return scores


def _write_removals(output: str, removals: Removals) -> tuple[list[Shard], Counter[str]]:
    def write(shard_slice: ShardSlice) -> tuple[Shard, Counter[str]]:
        table = removals.table(shard_slice)
        if table.num_rows == 0:
            return shard_slice.shard, Counter()
        file = write_table(output, f"removals-{shard_slice.shard.number:06d}.parquet", table)
        counts = Counter(table.column("reason").to_pylist())
        return replace(shard_slice.shard, removals=file, num_removed=table.num_rows), counts

    with ThreadPoolExecutor(_WRITER_THREADS) as pool:
        written = list(pool.map(write, removals.corpora.own))
    return [shard for shard, _ in written], sum((counts for _, counts in written), Counter())


def _metrics(removals: Removals, shards: list[Shard], counts: Counter[str]) -> dict[str, Any]:
    documents = sum(shard.num_documents for shard in shards)
    kept = sum(shard.num_documents - shard.num_removed for shard in shards)
    if documents != kept + counts.total():
        raise StageFailed(f"dedupe: {documents} documents, but {kept} kept and {counts} removed; this is a bug")
    final = list(removals.labels.values())[-1]
    sizes = np.unique(final[grouped(final)], return_counts=True)[1]
    earlier = [shard_slice.shard.num_documents for shard_slice in removals.corpora.slices if shard_slice.corpus != OWN]
    return {
        "documents": documents,
        "kept": kept,
        "removed": {reason: counts[reason] for reason in removals.labels},
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max(initial=1)),
        "earlier_documents": sum(earlier),
    }
