"""The report's section on documents: where every record went and why, and what was found in them on the way.

A *chain* is a clean stage and what was made of its documents: repeated lines cut, duplicates removed. Its last
artifact's shard table leads to everything that is told here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.contracts.artifacts import Artifact
from cluster.contracts.errors import StageFailed
from cluster.contracts.records import shard_and_row
from cluster.stage_kinds import kinds_of_corpora
from dataprep.documents import (
    HEAD_CHARACTERS,
    Shard,
    read_contamination,
    read_dropped,
    read_quarantined,
    read_removals,
    read_row,
    read_shard_table,
    read_signatures,
    removed_rows,
)

MAX_QUARANTINED = 50  # records listed; the artifact holds all; so for the other lists
MAX_CONTAMINATED = 50  # items of evaluation sets
MAX_REPEATED = 30  # lines
EXAMPLES_PER_REASON = 2
SHARDS_FOR_EXAMPLES = 32  # of each chain, for what needs rows: reading more would make a large run's report slow
_CHARACTERS_BEFORE = 60  # of the place where two texts begin to differ
_TOP_LANGUAGES = 12
_LENGTHS = (0, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)  # lower ends of the classes, characters

Chain = list[Artifact]


def chains(artifacts: Mapping[str, Artifact]) -> list[Chain]:
    """Each clean artifact with those made of it, one of another; where several stages take the same, the first."""
    followers: dict[str, Artifact] = {}
    cleans: dict[str, Artifact] = {}
    corpora = kinds_of_corpora()
    for artifact in artifacts.values():
        manifest = artifact.manifest
        if manifest.kind in corpora and "parts" in manifest.inputs:
            followers.setdefault(manifest.inputs["parts"], artifact)
        elif manifest.kind in corpora:
            cleans.setdefault(manifest.fingerprint, artifact)
    found = []
    for clean in cleans.values():
        chain = [clean]
        while (after := followers.pop(chain[-1].manifest.fingerprint, None)) is not None:
            chain.append(after)
        found.append(chain)
    return found


def balance(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Where every record that was read went. Raises `StageFailed` where the figures do not add up."""
    dropped: Counter[str] = Counter()
    read = kept = quarantined = 0
    for chain in chains(artifacts):
        for artifact in chain:
            metrics = artifact.manifest.metrics
            dropped.update(metrics["removed"] if "removed" in metrics else metrics["dropped"])
        read += chain[0].manifest.metrics["read"]
        quarantined += chain[0].manifest.metrics["quarantined"]
        kept += chain[-1].manifest.metrics["kept"]
    if read != kept + dropped.total() + quarantined:
        raise StageFailed(
            f"{read} records read, but {kept} kept + {dropped.total()} dropped + {quarantined} quarantined;"
            " this is a bug"
        )
    return {"read": read, "kept": kept, "dropped": dict(dropped.most_common()), "quarantined": quarantined}


def document_section(artifacts: Mapping[str, Artifact], figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows; None where no clean stage has finished. `figures`: what `balance` gives."""
    found = chains(artifacts)
    if not found:
        return None
    cleans = [chain[0].manifest.metrics for chain in found]
    languages = _sum(metrics["languages_seen"] for metrics in cleans)
    lengths, sampled = length_classes(found)
    return {
        "balance": figures,
        "funnel": funnel(artifacts),
        "reasons": figures["dropped"],
        "examples": _dropped_examples(found),
        "languages": bars(_top(languages)),
        "lengths": bars(lengths),
        "lengths_sampled": sampled,
        "pii": _sum(metrics.get("pii", {}) for metrics in cleans),
        "pii_documents": sum(metrics.get("pii_documents", 0) for metrics in cleans),
        "contamination": _contamination(found),
        "repeated": [_repeated(a) for chain in found for a in chain if a.manifest.kind == "repeated_lines"],
        "duplicates": [
            {**a.manifest.metrics, "examples": _duplicate_examples(a)}
            for chain in found
            for a in chain
            if a.manifest.kind == "dedupe"
        ],
        "quarantine_reasons": _sum(metrics["quarantine_reasons"] for metrics in cleans),
        "quarantined": _quarantined(found),
    }


def _sum(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())


def _top(languages: Mapping[str, int]) -> dict[str, int]:
    top = dict(list(languages.items())[:_TOP_LANGUAGES])
    rest = sum(languages.values()) - sum(top.values())
    return {**top, f"{len(languages) - len(top)} others": rest} if rest else top


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart. Offset and width are fractions of the chart's width, in [0, 1]."""

    name: str
    count: int
    offset: float
    width: float
    fraction: float  # of all
    kind: str = "part"  # of a funnel also "total" and "lost"


@dataclass(frozen=True)
class FunnelStep:
    """What one stage takes away, the largest loss first, and what is left behind it."""

    stage: str
    lost: list[Bar]
    left: Bar


@dataclass(frozen=True)
class Funnel:
    """Where the documents went, from what was read to what is kept."""

    read: Bar
    steps: list[FunnelStep]

    @property
    def kept(self) -> Bar:
        """What is left at the end."""
        return self.steps[-1].left

    @property
    def title(self) -> str:
        """What the funnel shows, as a sentence without a full stop."""
        if not self.read.count:
            return "No record was read"
        text = f"{self.kept.count:,} of {self.read.count:,} records stay ({self.kept.fraction:.0%})"
        lost = [bar for step in self.steps for bar in step.lost]
        if lost:
            most = max(lost, key=lambda bar: bar.count)
            text += f"; the largest loss is {most.count:,} by {most.name}"
        return text


def funnel(artifacts: Mapping[str, Artifact]) -> Funnel:
    """The losses of every stage of documents, a waterfall: each bar begins where what is left behind it ends."""
    found = chains(artifacts)
    names = {artifact.manifest.fingerprint: name for name, artifact in reversed(list(artifacts.items()))}
    read = sum(chain[0].manifest.metrics["read"] for chain in found)
    left = read

    def bar(name: str, count: int, offset: int, kind: str) -> Bar:
        of_all = max(read, 1)
        return Bar(name, count, offset / of_all, count / of_all, count / of_all, kind)

    steps = []
    for chain in found:
        for artifact in chain:
            losses = Counter(_losses(artifact))
            lost = []
            for reason, count in losses.most_common():
                if count:
                    left -= count
                    lost.append(bar(reason, count, left, "lost"))
            stage = names[artifact.manifest.fingerprint]
            steps.append(FunnelStep(stage, lost, bar(f"left after {stage}", left, 0, "total")))
    return Funnel(bar("read", read, 0, "total"), steps)


def bars(counts: Mapping[str, int]) -> list[Bar]:
    """One bar per count, the widest as wide as the chart."""
    total, widest = max(sum(counts.values()), 1), max([*counts.values(), 1])
    return [Bar(name, count, 0.0, count / widest, count / total) for name, count in counts.items()]


def _losses(artifact: Artifact) -> dict[str, int]:
    """Records that a stage of documents let go, by reason."""
    metrics = artifact.manifest.metrics
    lost = dict(metrics["removed"] if "removed" in metrics else metrics["dropped"])
    return {**lost, "quarantined": metrics["quarantined"]} if metrics.get("quarantined") else lost


def _some_shards(found: Sequence[Chain]) -> Iterator[tuple[str, Shard]]:
    """(artifact, shard) of the first shards of each chain, as its last artifact has them."""
    for chain in found:
        for shard in read_shard_table(chain[-1].uri)[:SHARDS_FOR_EXAMPLES]:
            yield chain[-1].uri, shard


def _quarantined(found: Sequence[Chain]) -> list[dict[str, Any]]:
    """The first quarantined records, with file and offset. Of the shards without any, one of each chain is read."""
    rows: list[dict[str, Any]] = []
    for chain in found:
        size_of_empty: int | None = None  # of a file without rows; each row makes a Parquet file larger
        for shard in read_shard_table(chain[-1].uri):
            if shard.quarantined.size == size_of_empty:
                continue
            found_rows = read_quarantined(chain[-1].uri, shard).slice(0, MAX_QUARANTINED - len(rows)).to_pylist()
            if not found_rows:
                size_of_empty = shard.quarantined.size
            rows += found_rows
            if len(rows) == MAX_QUARANTINED:
                return rows
    return rows


def _dropped_examples(found: Sequence[Chain]) -> dict[str, list[dict[str, Any]]]:
    """A few dropped documents of every reason."""
    examples: dict[str, list[dict[str, Any]]] = {}
    for uri, shard in _some_shards(found):
        for row in read_dropped(uri, shard).select(["reason", "uri", "url", "head"]).to_pylist():
            of_reason = examples.setdefault(row["reason"], [])
            if len(of_reason) < EXAMPLES_PER_REASON:
                of_reason.append(row)
    return dict(sorted(examples.items()))


def _duplicate_examples(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    """A few removed documents of every reason, each beside the one of this corpus that stays for it."""
    shards = read_shard_table(artifact.uri)
    examples: dict[str, list[dict[str, Any]]] = {}
    for shard in shards[:SHARDS_FOR_EXAMPLES]:
        removals = read_removals(artifact.uri, shard)
        for reason in artifact.manifest.metrics["removed"]:
            of_reason = examples.setdefault(reason, [])
            is_shown = pc.and_(
                pc.equal(removals.column("reason").cast(pa.string()), reason), pc.equal(removals.column("corpus"), 0)
            )
            for removal in removals.filter(is_shown).slice(0, EXAMPLES_PER_REASON - len(of_reason)).to_pylist():
                number, row = shard_and_row(removal["survivor"])
                columns = ["text", "url", "uri", "offset"]
                removed = read_row(artifact.uri, shard, removal["row"], columns)
                stays = read_row(artifact.uri, shards[number], row, columns)
                removed["shown"], stays["shown"] = around_difference(removed["text"], stays["text"])
                of_reason.append({"removed": removed, "stays": stays})
    return {reason: pairs for reason, pairs in examples.items() if pairs}


def around_difference(first: str, second: str) -> tuple[str, str]:
    """What to show of two texts: from shortly before they begin to differ, or else their beginnings."""
    begin = 0
    if first != second:
        pairs = enumerate(zip(first, second, strict=False))
        same = next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))
        begin = max(0, same - _CHARACTERS_BEFORE)

    def shown(text: str) -> str:
        end = begin + HEAD_CHARACTERS
        return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"

    return shown(first), shown(second)


def length_classes(found: Sequence[Chain]) -> tuple[dict[str, int], bool]:
    """(kept documents by class of lengths, whether only some shards were counted)."""
    counts = np.zeros(len(_LENGTHS), np.int64)
    seen = 0
    for uri, shard in _some_shards(found):
        if shard.num_documents:
            lengths = read_signatures(uri, shard, ["num_characters"]).column("num_characters").to_numpy()
            classes = np.searchsorted(_LENGTHS, lengths[~removed_rows(uri, shard)], side="right") - 1
            counts += np.bincount(classes, minlength=len(_LENGTHS))
            seen += shard.num_documents
    ends = [f"to {end - 1:,}" for end in _LENGTHS[1:]] + ["or more"]
    names = [f"{begin:,} {end}" for begin, end in zip(_LENGTHS, ends, strict=True)]
    total = sum(shard.num_documents for chain in found for shard in read_shard_table(chain[-1].uri))
    filled = np.flatnonzero(counts)
    shown = slice(filled[0], filled[-1] + 1) if len(filled) else slice(0, 0)
    return dict(zip(names[shown], counts[shown].tolist(), strict=True)), seen < total


def _contamination(found: Sequence[Chain]) -> dict[str, Any] | None:
    """What of the evaluation sets was met: by item, in how many documents, and what became of these."""
    settings = [chain[0].manifest.config.get("decontamination") for chain in found]
    if not any(settings):
        return None
    items: dict[tuple[str, int], dict[str, Any]] = {}
    places: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for uri, shard in _some_shards(found):
        for row in read_contamination(uri, shard).to_pylist():
            key = (row["evaluation_file"], row["evaluation_line"])
            items.setdefault(
                key, {"file": key[0], "line": key[1], "passage": row["passage"], "url": row["url"] or row["uri"]}
            )
            places.setdefault(key, set()).add((row["uri"], row["offset"]))
    passages = _sum(chain[0].manifest.metrics.get("contamination", {}) for chain in found)
    left_out = _sum(chain[0].manifest.metrics.get("evaluation_texts_left_out", {}) for chain in found)
    names = _short_names({*passages, *left_out, *(file for file, _ in items)})
    rows = [{**item, "file": names[item["file"]], "documents": len(places[key])} for key, item in items.items()]
    rows.sort(key=lambda row: (-row["documents"], row["file"], row["line"]))
    outcomes = {
        "left as they are"
        if s["mode"] == "annotate"
        else {"cut": "cut out", "drop": "dropped with their documents"}[s["action"]]
        for s in settings
        if s
    }
    return {
        "outcome": " or ".join(sorted(outcomes)),
        "passages": {names[file]: count for file, count in passages.items()},
        "left_out": {names[file]: count for file, count in left_out.items()},
        "sampled": any(len(read_shard_table(chain[-1].uri)) > SHARDS_FOR_EXAMPLES for chain in found),
        "documents": len(set().union(*places.values())) if places else 0,
        "dropped": sum(chain[0].manifest.metrics["dropped"].get("contaminated", 0) for chain in found),
        "num_items": len(rows),
        "items": rows[:MAX_CONTAMINATED],
    }


def _short_names(uris: Set[str]) -> dict[str, str]:
    """The shortest end of each path that no other has."""

    def end(uri: str, num_components: int) -> str:
        return "/".join(uri.split("/")[-num_components:])

    names = {}
    for uri in uris:
        lengths = range(1, uri.count("/") + 2)
        unique = (n for n in lengths if all(end(other, n) != end(uri, n) for other in uris if other != uri))
        names[uri] = end(uri, next(unique, len(lengths)))
    return names


def _repeated(artifact: Artifact) -> dict[str, Any]:
    metrics = artifact.manifest.metrics
    return {
        **{name: metrics[name] for name in ("repeated_lines", "lines", "cut_lines", "cut_documents", "documents")},
        "repeated_lines_of_sites": metrics.get("repeated_lines_of_sites", 0),  # not in what earlier versions made
        "dropped": sum(metrics["dropped"].values()),
        "annotated": artifact.manifest.config.get("mode") == "annotate",
        "most": metrics["most_repeated"][:MAX_REPEATED],
    }
