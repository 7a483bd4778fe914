"""What a conversations artifact holds, for `raymill inspect`: counts, and reasons with a few examples of each."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.contracts import storage
from cluster.contracts.artifacts import MANIFEST, Artifact, open_artifact
from cluster.contracts.errors import InputError
from cluster.inspect import printable
from cluster.run_record import read_run
from cluster.stage_kinds import kinds_of_corpora
from training.conversations.left_out import left_out

KIND = "conversations"


def inspected_stage(target: str, storage_uri: str, stage: str | None) -> Artifact | None:
    """The artifact that is to be looked into: at the URI `target`, or of a stage of the run of that name.

    Without `stage` it is the last corpus of a run, which is None here, since `open_corpus` finds it; or its
    conversations, where it has no corpus. Raises `InputError` for a stage that is not there, or is of neither kind.
    """
    if storage.exists(storage.join(target, MANIFEST)):
        return open_artifact(target)
    record = read_run(target, storage_uri)
    if stage is None:
        found = None if record.newest_of(*kinds_of_corpora()) else record.newest_of(KIND)
        return open_artifact(found.uri) if found is not None else None
    kinds = (*kinds_of_corpora(), KIND)
    shown = [name for name, each in record.stages.items() if each.kind in kinds and each.finished]
    if stage not in shown:
        raise InputError(
            f"run {target} has no finished stage {stage!r} to look into; it has {', '.join(shown) or 'none'}"
        )
    return open_artifact(record.stages[stage].uri)


def print_conversations(artifact: Artifact, console: Console, *, examples: int) -> None:
    """The counts, by set where there are several, then the reasons with their examples."""
    metrics = artifact.manifest.metrics
    console.print(f"{artifact.manifest.kind} {artifact.uri}", markup=False, highlight=False)
    table = Table("", "rows", "of all", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    read = metrics["num_rows"]

    def row(name: str, count: int) -> None:
        table.add_row(name, f"{count:,}", f"{count / max(read, 1):.1%}")

    row("training", metrics.get("num_distinct_train", metrics["num_train"]))
    row("held out", metrics["num_heldout"])
    if "num_prompts" in metrics:
        row("prompts", metrics["num_prompts"])
    reasons = left_out(artifact.uri, examples=examples)
    for outcome in ("dropped", "quarantined"):
        row(outcome, metrics[f"num_{outcome}"])
        for reason in reasons:
            if reason.outcome == outcome:
                row(f"  {reason.name}", reason.count)
    table.add_row("read", f"{read:,}", "")
    for name, counts in metrics.get("by_set", {}).items():
        row(f"  {printable(name)}", counts["read"])
    console.print(table)
    for reason in reasons:
        for example in reason.examples:
            head = Text(f"\n{reason.name}", style="bold")
            head.append(f"  {printable(example.uri)}" + (f", line {example.line}" if example.line else ""), style="dim")
            console.print(head)
            console.print(Text(printable(example.head)))
