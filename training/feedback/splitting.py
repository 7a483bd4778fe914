"""Decides for every row of feedback what becomes of it: training, held out, or dropped with a reason.

The split goes by what the user asks first, as that of conversations does, so the two agree on a prompt that both have.
No prompt that a held-out row begins with is asked anywhere in training.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cluster.contracts.records import is_heldout
from training.feedback.conversions import identity
from training.feedback.prompts import asked
from training.feedback.rows import FeedbackRow

Reason = Literal["duplicate", "asks_a_heldout_prompt"]
_NOT_SAID = ("source_name", "uri", "offset")  # the same judgement from another place is the same


@dataclass(frozen=True)
class FeedbackSplit:
    """Both sides, and the rows that belong to neither."""

    train: list[FeedbackRow] = field(default_factory=list)
    heldout: list[FeedbackRow] = field(default_factory=list)
    dropped: list[tuple[FeedbackRow, Reason]] = field(default_factory=list)


def split_feedback(
    rows: Iterable[FeedbackRow],
    *,
    heldout_rows: Sequence[FeedbackRow] = (),
    fraction: float,
    seed: int,
    heldout_prompts: Collection[str] = (),
    deduplicate: bool = True,
) -> FeedbackSplit:
    """Split `rows` by first prompt (`first_asked`): a `fraction` of all prompts is held out, and all `heldout_prompts`.

    `heldout_rows` are held out, whatever they ask. Of rows that say the same the first counts, held-out ones before
    others; training rows that ask a held-out prompt in any turn are on neither side.
    """
    split = FeedbackSplit()
    seen: set[bytes] = set()
    train: list[FeedbackRow] = []
    for row, is_given in [*((row, True) for row in heldout_rows), *((row, False) for row in rows)]:
        key = identity({name: value for name, value in row.items() if name not in _NOT_SAID})
        if deduplicate and key in seen:
            split.dropped.append((row, "duplicate"))
            continue
        seen.add(key)
        prompt = first_asked(row)
        held = is_given or prompt in heldout_prompts or is_heldout(prompt, fraction=fraction, seed=seed)
        (split.heldout if held else train).append(row)
    kept, leaking = without_prompts(train, {first_asked(row) for row in split.heldout})
    split.train.extend(kept)
    split.dropped.extend((row, "asks_a_heldout_prompt") for row in leaking)
    return split


def without_prompts(
    rows: Iterable[FeedbackRow], prompts: Collection[str]
) -> tuple[list[FeedbackRow], list[FeedbackRow]]:
    """(rows that ask none of `prompts` in any turn, rows that do)."""
    kept: list[FeedbackRow] = []
    leaking: list[FeedbackRow] = []
    for row in rows:
        (leaking if any(prompt in prompts for prompt in asked(row)) else kept).append(row)
    return kept, leaking


def first_asked(row: FeedbackRow) -> str:
    """What the user asks first, without case and white space."""
    return next(asked(row))
