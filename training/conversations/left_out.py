"""Which rows a conversations artifact leaves out and why, with examples: for the report and `raymill inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.contracts import storage
from training.conversations.artifact import DROPPED_FILE
from training.conversations.files import shown
from training.conversations.reading import QUARANTINE_FILE

_OUTCOMES = {"dropped": DROPPED_FILE, "quarantined": QUARANTINE_FILE}


@dataclass(frozen=True)
class LeftOutRow:
    """One row that is not in the artifact."""

    uri: str
    line: int | None  # in the file, from 1; None in what earlier versions made
    source: str | None  # the set that it is of
    head: str  # how it begins


@dataclass
class Reason:
    """Why rows are left out."""

    outcome: str  # "dropped" or "quarantined"
    name: str
    count: int = 0
    examples: list[LeftOutRow] = field(default_factory=list)


def left_out(uri: str, *, examples: int) -> list[Reason]:
    """Every reason with its count and its first `examples` rows: dropped, then quarantined, the most frequent first.

    Of rows that are no examples, only the reason is read.
    """
    found: list[Reason] = []
    for outcome, name in _OUTCOMES.items():
        reasons: dict[str, Reason] = {}
        with storage.open_table(storage.join(uri, name)) as file:
            for group in range(file.metadata.num_row_groups):
                words = file.read_row_group(group, columns=["reason"]).column("reason").to_pylist()
                for word, count in Counter(words).items():
                    reasons.setdefault(word, Reason(outcome, word)).count += count
                wanted = _first(words, {word: examples - len(r.examples) for word, r in reasons.items()})
                if wanted:
                    for row in file.read_row_group(group).take(wanted).to_pylist():
                        reasons[row["reason"]].examples.append(_example(row))
        found += sorted(reasons.values(), key=lambda reason: (-reason.count, reason.name))
    return found


def _first(words: Sequence[str], missing: Mapping[str, int]) -> list[int]:
    """The places of the first rows of each reason, as many as are missing."""
    left = dict(missing)
    places = []
    for place, word in enumerate(words):
        if left[word] > 0:
            left[word] -= 1
            places.append(place)
    return places


def _example(row: Mapping[str, Any]) -> LeftOutRow:
    if "messages" in row:
        head = shown(" · ".join(f"{message['role']}: {message['content']}" for message in row["messages"]))
    else:
        head = row["detail"]
    return LeftOutRow(row["uri"], row.get("line"), row.get("source"), head)
