"""What a corpus holds, for `raymill inspect`: counts, reasons with a few examples of each, and what became of one URL.

An artifact of documents is read through its shard table, a column of a part at a time. A page's text never reaches the
terminal as it is: control characters, escape sequences and invisible characters are shown as their codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.contracts import storage
from cluster.contracts.artifacts import MANIFEST, Artifact, open_artifact
from cluster.contracts.errors import InputError
from cluster.contracts.records import shard_and_row
from cluster.run_record import read_run
from cluster.stage_kinds import kinds_of_corpora
from dataprep.documents import (
    Shard,
    read_columns,
    read_dropped,
    read_kept,
    read_quarantined,
    read_removals,
    read_row,
    read_shard_table,
)
from dataprep.signatures.url import normal_url

HEAD_CHARACTERS = 160  # of a text, shown
_PLACE = ["uri", "offset", "url"]
_SHOWN_LANGUAGES = 20


@dataclass
class Example:
    """One record to show."""

    reason: str  # "" for a kept one
    url: str | None
    uri: str  # the input file
    offset: int | None  # of the record in it
    head: str


@dataclass
class Summary:
    """How many records a corpus kept and lost, by reason, with examples."""

    kept: Counter[str] = field(default_factory=Counter)  # by language
    dropped: Counter[str] = field(default_factory=Counter)  # by reason, of the clean stage
    removed: Counter[str] = field(default_factory=Counter)  # by reason, of the dedupe stage
    quarantined: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)  # up to so many of each reason, in the order of the shards


@dataclass(frozen=True)
class Fate:
    """What became of one record with the URL that was asked for."""

    outcome: str  # "kept", "dropped", "removed", "quarantined"
    reason: str
    url: str
    uri: str
    offset: int
    part: str  # the Parquet file that holds it
    row: int
    head: str
    survivor: str = ""  # of a duplicate: which document stays


def open_corpus(target: str, storage_uri: str) -> Artifact:
    """The artifact of documents at the URI `target`, or the newest of the run of that name. Raises `InputError`."""
    corpora = kinds_of_corpora()
    if storage.exists(storage.join(target, MANIFEST)):
        artifact = open_artifact(target)
        if artifact.manifest.kind not in corpora:
            raise InputError(
                f"{target} is a {artifact.manifest.kind!r} artifact; a {', '.join(corpora)} one is a corpus"
            )
        return artifact
    stage = read_run(target, storage_uri).newest_of(*corpora)
    if stage is None:
        raise InputError(f"run {target} has no finished {' or '.join(corpora)} stage yet")
    return open_artifact(stage.uri)


def summarise(artifact: Artifact, *, examples: int) -> Summary:
    """Counts over all shards, and up to `examples` rows for each reason and of what is kept."""
    found, shown = Summary(), Counter[str]()
    for shard in read_shard_table(artifact.uri):
        dropped, quarantined = read_dropped(artifact.uri, shard), read_quarantined(artifact.uri, shard)
        removals = read_removals(artifact.uri, shard)
        found.dropped.update(dropped.column("reason").to_pylist())
        found.quarantined.update(quarantined.column("reason").to_pylist())
        found.removed.update(removals.column("reason").to_pylist())
        for batch, _ in read_kept(artifact.uri, shard, ["language"]):
            found.kept.update(batch.column("language").to_pylist())
        for example in _examples(artifact, shard, dropped, quarantined, removals, found, shown, examples):
            shown[example.reason] += 1
            found.examples.append(example)
    return found


def find_url(artifact: Artifact, url: str) -> Iterator[Fate]:
    """Every record of the corpus that has this URL, scheme, `www.`, fragment and tracking parameters apart."""
    wanted = normal_url(url)
    shards = read_shard_table(artifact.uri)
    for shard in shards:
        documents = read_columns(artifact.uri, shard, ["url"])
        rows = _matches(documents.column("url").to_pylist(), wanted)
        if rows:
            yield from _fates(artifact, shards, shard, rows)
        dropped = read_dropped(artifact.uri, shard)
        for row in _matches(dropped.column("url").to_pylist(), wanted):
            values = dropped.slice(row, 1).to_pylist()[0]
            yield Fate(
                "dropped", values["reason"], values["url"], values["uri"], values["offset"], shard.dropped.name, row,
                values["head"] or "",
            )  # fmt: skip
        quarantined = read_quarantined(artifact.uri, shard)
        for row in _matches(quarantined.column("url").to_pylist(), wanted):
            values = quarantined.slice(row, 1).to_pylist()[0]
            yield Fate(
                "quarantined", values["reason"], values["url"], values["uri"], values["offset"],
                shard.quarantined.name, row, values["detail"] or "",
            )  # fmt: skip


def count_quarantined_without_url(artifact: Artifact) -> int:
    """How many records were quarantined of which no URL is known: no search for one can find them."""
    return sum(read_quarantined(artifact.uri, shard)["url"].null_count for shard in read_shard_table(artifact.uri))


def print_summary(artifact: Artifact, summary: Summary, console: Console) -> None:
    """The counts, then the examples."""
    kept, gone = summary.kept.total(), (summary.dropped, summary.removed, summary.quarantined)
    read = kept + sum(counts.total() for counts in gone)
    console.print(f"{artifact.manifest.kind} {artifact.uri}", markup=False, highlight=False)
    table = Table("", "rows", "of all", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    _rows(table, "kept", summary.kept, read, _SHOWN_LANGUAGES)
    for name, counts in zip(("dropped", "removed", "quarantined"), gone, strict=True):
        _rows(table, name, counts, read, None)
    table.add_row("read", f"{read:,}", "")
    console.print(table)
    for example in sorted(summary.examples, key=lambda example: example.reason):
        head = Text(f"\n{example.reason or 'kept'}", style="bold")
        head.append(f"  {printable(example.url or '')}  {_place(example.uri, example.offset)}", style="dim")
        console.print(head)
        console.print(Text(printable(example.head)))


def print_fates(url: str, fates: Sequence[Fate], quarantined: int, console: Console) -> None:
    """What became of a URL. `quarantined` is the number of records of which no URL is known."""
    if not fates:
        console.print(Text(f"{printable(url)}: no record of this corpus has it"))
        if quarantined:
            console.print(f"{quarantined:,} records were quarantined without a URL that could be told; see the counts")
    for fate in fates:
        outcome = Text(f"{fate.outcome}" + (f": {fate.reason}" if fate.reason else ""), style="bold")
        outcome.append(f"  {printable(fate.url)}", style="dim")
        console.print(outcome)
        console.print(Text(f"  from  {_place(fate.uri, fate.offset)}\n  in    {fate.part}, row {fate.row}"))
        if fate.survivor:
            console.print(Text(f"  stays {printable(fate.survivor)}"))
        console.print(Text(f"  text  {printable(fate.head)}"))


def printable(text: str) -> str:
    """The head of a text on one line, whatever a terminal could act on or hide shown as its code."""
    head = text[:HEAD_CHARACTERS] + ("…" if len(text) > HEAD_CHARACTERS else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)


def _examples(
    artifact: Artifact,
    shard: Shard,
    dropped: pa.Table,
    quarantined: pa.Table,
    removals: pa.Table,
    found: Summary,
    shown: Counter[str],
    count: int,
) -> Iterator[Example]:
    """Rows of a shard for the reasons of which too few are shown."""
    for reason in {*found.dropped}:
        mine = dropped.filter(pc.equal(dropped.column("reason"), reason)).slice(0, count - shown[reason])
        for row in mine.to_pylist():
            yield Example(reason, row["url"], row["uri"], row["offset"], row["head"] or "")
    for reason in {*found.quarantined}:
        mine = quarantined.filter(pc.equal(quarantined.column("reason"), reason)).slice(0, count - shown[reason])
        for row in mine.to_pylist():
            yield Example(reason, row["url"], row["uri"], row["offset"], row["detail"] or "")
    wanted: dict[int, str] = {}
    for reason in {*found.removed}:
        mine = removals.filter(pc.equal(removals.column("reason").cast(pa.string()), reason))
        wanted |= dict.fromkeys(mine.slice(0, count - shown[reason]).column("row").to_pylist(), reason)
    if shown[""] < count and shard.num_documents > shard.num_removed:
        for _, rows in read_kept(artifact.uri, shard, ["language"]):
            wanted |= dict.fromkeys(rows[: count - shown[""]].tolist(), "")
            break
    if wanted:
        documents = read_columns(artifact.uri, shard, ["text", *_PLACE]).take(sorted(wanted)).to_pylist()
        for row, values in zip(sorted(wanted), documents, strict=True):
            yield Example(wanted[row], values["url"], values["uri"], values["offset"], values["text"])


def _fates(artifact: Artifact, shards: Sequence[Shard], shard: Shard, rows: Sequence[int]) -> Iterator[Fate]:
    """Of rows of a shard's documents."""
    removals = {row["row"]: row for row in read_removals(artifact.uri, shard).to_pylist()}
    documents = read_columns(artifact.uri, shard, ["text", *_PLACE]).take(list(rows)).to_pylist()
    for row, values in zip(rows, documents, strict=True):
        removal = removals.get(row)
        yield Fate(
            "kept" if removal is None else "removed",
            "" if removal is None else removal["reason"],
            values["url"],
            values["uri"],
            values["offset"],
            shard.documents.name,
            row,
            values["text"],
            "" if removal is None else _survivor(artifact, shards, removal),
        )


def _survivor(artifact: Artifact, shards: Sequence[Shard], removal: dict[str, Any]) -> str:
    number, row = shard_and_row(removal["survivor"])
    if removal["corpus"]:
        return f"row {row} of shard {number} of against[{removal['corpus'] - 1}], an earlier corpus"
    values = read_row(artifact.uri, shards[number], row, _PLACE)
    return f"{values['url'] or 'no URL'}, {_place(values['uri'], values['offset'])}"


def _matches(urls: Sequence[str | None], wanted: str) -> list[int]:
    return [row for row, url in enumerate(urls) if url and normal_url(url) == wanted]


def _place(uri: str, offset: int | None) -> str:
    """A record's place; -1 is the whole file's offset."""
    return printable(uri) if offset is None or offset == -1 else f"{printable(uri)} at {offset:,}"


def _rows(table: Table, name: str, counts: Counter[str], read: int, most: int | None) -> None:
    table.add_row(name, f"{counts.total():,}", f"{counts.total() / max(1, read):.1%}", style="bold")
    for what, count in counts.most_common(most):
        table.add_row(Text(f"  {printable(str(what))}"), f"{count:,}", f"{count / max(1, read):.1%}")
    if most is not None and len(counts) > most:
        rest = counts.total() - sum(count for _, count in counts.most_common(most))
        table.add_row(f"  {len(counts) - most} more languages", f"{rest:,}", "")
