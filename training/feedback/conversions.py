"""Makes one kind of feedback out of another; what became of what is counted by name.

- a ranking -> pairs: every answer over each that stands below it, or the best over the worst alone;
- scores -> pairs: the same by score, where scores differ by more than a minimum, with the difference as margin;
- labels -> pairs: an answer with a thumb up over one with a thumb down, where one prompt has both;
- pairs -> labels: the chosen answer gets a thumb up, the rejected one a thumb down.

Nothing is made up: equal ranks and scores give no pair, and an answer that is up in one pair and down in another gets
no label. Scores are not cut into labels, since where to cut is not in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import orjson

from cluster.contracts.records import Message
from training.feedback.rows import Answer, FeedbackRow, Label, PreferencePair, Ranking, Scores

_SHARED = ("prompt", "source", "source_name", "tools", "topic", "weight", "uri", "offset", "reward_model_only")


@dataclass(frozen=True)
class PairRule:
    """Which pairs the answers to one prompt give."""

    which: Literal["all", "best_and_worst"] = "all"
    min_difference: float = 0.0
    """Scores that differ by no more, as a share of their scale, give no pair."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def to_pairs(rows: Iterable[FeedbackRow], rule: PairRule) -> tuple[list[PreferencePair], Counter[str]]:
    """The pairs that rows of all kinds give, and how many of each kind: {"pair": 40, "ranking": 36}.

    Pairs stand where the row stood that they are made of; those made of labels come last.
    """
    pairs: list[PreferencePair] = []
    counts: Counter[str] = Counter()
    labels: list[Label] = []
    for row in rows:
        if row["kind"] == "label":
            labels.append(row)
            continue
        made = [row] if row["kind"] == "pair" else pairs_of(row, rule)
        counts[row["kind"]] += len(made)
        pairs += made
    made = pairs_of_labels(labels)
    if made:
        counts["label"] += len(made)
    return pairs + made, counts


def comparisons(row: Ranking | Scores, rule: PairRule) -> list[tuple[int, int, float]]:
    """(number of the better answer, of the worse one, margin) of each pair that a row gives, best answers first.

    The margin of scores is their difference as a share of the scale (`score_range`), so it is above 0 and at most 1;
    without a scale it is the difference itself. Pairs whose margin is at most `rule.min_difference` are left out, and
    so are ties. Rankings have margin 0.
    """
    if row["kind"] == "ranking":
        height = [-float(rank) for rank in row["ranks"]]
        scale = None
    else:
        height = row["scores"]
        low, high = row.get("score_range", (0.0, 1.0))
        scale = (high - low) or 1.0
    order = sorted(range(len(height)), key=lambda n: -height[n])
    ordered = [(better, worse) for n, better in enumerate(order) for worse in order[n + 1 :]]
    if rule.which == "best_and_worst":
        ordered = [(order[0], order[-1])]
    found = []
    for better, worse in ordered:
        difference = height[better] - height[worse]
        margin = 0.0 if scale is None else difference / scale
        is_pair = difference > 0 if scale is None else margin > rule.min_difference
        if is_pair and row["answers"][better] != row["answers"][worse]:
            found.append((better, worse, margin))
    return found


def pairs_of(row: Ranking | Scores, rule: PairRule) -> list[PreferencePair]:
    """The pairs that `comparisons` tells of; those of scores have a margin."""
    return [
        _pair(
            row,
            row["answers"][better],
            row["answers"][worse],
            **({"margin": margin} if row["kind"] == "scores" else {}),
        )
        for better, worse, margin in comparisons(row, rule)
    ]


def pairs_of_labels(rows: Iterable[Label]) -> list[PreferencePair]:
    """Every answer with a thumb up over every one with a thumb down to the same prompt."""
    by_prompt: dict[bytes, list[Label]] = {}
    for row in rows:
        by_prompt.setdefault(identity(row["prompt"], row.get("tools")), []).append(row)
    pairs = []
    for labels in by_prompt.values():
        bad = [row for row in labels if not row["label"]]
        pairs += [
            _pair(good, good["answer"], worse["answer"])
            for good in labels
            if good["label"]
            for worse in bad
            if identity(good["answer"]) != identity(worse["answer"])
        ]
    return pairs


def to_labels(rows: Iterable[FeedbackRow]) -> tuple[list[Label], Counter[str]]:
    """The labels that rows of all kinds give, and how many of each kind.

    Of a ranking the best answers get a thumb up and the worst a thumb down. Scores give none; count "conflicting" holds
    answers to one prompt with thumbs both up and down, which get no label.
    """
    made: list[tuple[str, Label]] = []
    for row in rows:
        if row["kind"] == "label":
            made.append(("label", row))
        elif row["kind"] == "pair":
            made += [("pair", _label(row, row["chosen"], True)), ("pair", _label(row, row["rejected"], False))]
        elif row["kind"] == "ranking" and len(set(row["ranks"])) > 1:
            best, worst = min(row["ranks"]), max(row["ranks"])
            made += [
                ("ranking", _label(row, answer, rank == best))
                for answer, rank in zip(row["answers"], row["ranks"], strict=True)
                if rank in (best, worst)
            ]
    seen: dict[bytes, set[bool]] = {}
    keys = [identity(row["prompt"], row["answer"], row.get("tools")) for _, row in made]
    for key, (_, row) in zip(keys, made, strict=True):
        seen.setdefault(key, set()).add(row["label"])
    labels: dict[bytes, Label] = {}
    counts: Counter[str] = Counter()
    for key, (kind, row) in zip(keys, made, strict=True):
        if len(seen[key]) == 1 and key not in labels:
            labels[key] = row
            counts[kind] += 1
    conflicting = sum(len(values) > 1 for values in seen.values())
    return list(labels.values()), counts + Counter(conflicting=conflicting)


def identity(*parts: Any) -> bytes:
    """The same bytes for equal messages, whatever the order of their keys."""
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)


def _pair(row: Mapping[str, Any], chosen: Answer, rejected: Answer, **more: Any) -> PreferencePair:
    return cast(PreferencePair, {"kind": "pair", "chosen": chosen, "rejected": rejected, **_shared(row), **more})


def _label(row: Mapping[str, Any], answer: Sequence[Message], label: bool) -> Label:
    return cast(Label, {"kind": "label", "answer": list(answer), "label": label, **_shared(row)})


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _SHARED if name in row}
