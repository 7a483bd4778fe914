"""The report's section on conversations: what became of the rows of each set, and why rows were left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.contracts.artifacts import Artifact
from training.conversations.left_out import Reason, left_out

EXAMPLES_PER_REASON = 2
KIND = "conversations"

_COLUMNS = ("read", "train", "distinct_train", "heldout", "prompts", "dropped", "quarantined")


@dataclass(frozen=True)
class ConversationSection:
    """What one conversations stage read and kept."""

    name: str  # of the stage
    metrics: Mapping[str, Any]
    columns: tuple[str, ...]  # of the table of sets: those that have a count
    sets: Mapping[str, Mapping[str, int]]  # name -> counts; the whole under "" where there is one set
    reasons: list[Reason]


def conversation_sections(artifacts: Mapping[str, Artifact]) -> list[ConversationSection]:
    """One section for every conversations stage of a run, in their order."""
    return [_section(name, artifact) for name, artifact in artifacts.items() if artifact.manifest.kind == KIND]


def _section(name: str, artifact: Artifact) -> ConversationSection:
    metrics = artifact.manifest.metrics
    whole = {
        "read": metrics["num_rows"],
        "train": metrics["num_train"],
        "distinct_train": metrics.get("num_distinct_train", metrics["num_train"]),
        "heldout": metrics["num_heldout"],
        "prompts": metrics.get("num_prompts", 0),
        "dropped": metrics["num_dropped"],
        "quarantined": metrics["num_quarantined"],
    }
    sets = {**metrics.get("by_set", {}), "": whole}
    same = all(counts["train"] == counts["distinct_train"] for counts in sets.values())
    left_away = {"distinct_train"} if same else set()
    columns = [column for column in _COLUMNS if column not in left_away and (column != "prompts" or whole["prompts"])]
    reasons = left_out(artifact.uri, examples=EXAMPLES_PER_REASON)
    return ConversationSection(name, metrics, tuple(columns), sets, reasons)
