"""Decides for every row what becomes of it: training, held out, or dropped with a reason.

All is decided by the rows' keys alone, over all files and sets at once. The split is a function of the first prompt and
a seed, so one more conversation moves no other one to the other side. No held-out prompt is asked anywhere in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.contracts.hashing import derived_seed, mix64
from training.conversations.keys import RowKeys

REASONS = ("", "duplicate", "duplicate_prompt", "beyond_max_rows", "asks_a_heldout_prompt", "not_drawn")
_DUPLICATE, _DUPLICATE_PROMPT, _BEYOND, _ASKS_HELDOUT, _NOT_DRAWN = range(1, len(REASONS))


@dataclass(frozen=True)
class SetShare:
    """How much of a set is used."""

    name: str
    rows: slice  # which rows are of it
    weight: float = 1.0  # how often each of its training rows counts; a fraction is of rows that are drawn
    max_rows: int | None = None


@dataclass(frozen=True)
class Decisions:
    """What becomes of each of N rows."""

    reason_N: npt.NDArray[np.int8]  # a number of `REASONS`; 0 where the row is kept
    is_heldout_N: npt.NDArray[np.bool_]
    copies_N: npt.NDArray[np.int32]  # how often the row stands on its side; 0 where it is dropped


def decide(
    keys: RowKeys, sets: Sequence[SetShare], *, deduplicate: bool, one_per_prompt: bool = False, seed: int = 0
) -> Decisions:
    """What becomes of the rows.

    - Of rows with the same content the first stays, where `deduplicate` says so; of rows with the same first prompt
      the first, where `one_per_prompt` does.
    - Of a set with `max_rows`, those stay that draw the lowest numbers. Every row draws by its own content, so one more
      row displaces at most one.
    - A training row is dropped that asks, in any turn, what a held-out row asks first.
    - The training rows of a set count `weight` times: 2.5 is twice each, and once more for the half that draws lowest.
    """
    reason_N = np.zeros(len(keys), np.int8)
    if deduplicate:
        order = np.lexsort((keys.content_low_N, keys.content_high_N))  # stable: equal rows stay in their order
        same = (np.diff(keys.content_high_N[order]) == 0) & (np.diff(keys.content_low_N[order]) == 0)
        reason_N[order[1:][same]] = _DUPLICATE
    if one_per_prompt:
        alive = np.flatnonzero(reason_N == 0)
        prompts = keys.first_prompt_N[alive]
        order = np.argsort(prompts, kind="stable")
        reason_N[alive[order[1:][np.diff(prompts[order]) == 0]]] = _DUPLICATE_PROMPT
    draws_N = np.zeros(len(keys), np.uint64)
    for each in sets:
        draws_N[each.rows] = mix64(keys.content_low_N[each.rows] ^ np.uint64(derived_seed("rows", seed, each.name)))
        if each.max_rows is not None:
            alive = _of(each, reason_N == 0)
            reason_N[_lowest(alive, draws_N, len(alive))[each.max_rows :]] = _BEYOND
    leaks_N = ~keys.is_heldout_N & asks_any(keys, keys.first_prompt_N[keys.is_heldout_N & (reason_N == 0)])
    reason_N[leaks_N & (reason_N == 0)] = _ASKS_HELDOUT
    copies_N = (reason_N == 0).astype(np.int32)
    for each in sets:
        if each.weight != 1:
            rows = _of(each, (reason_N == 0) & ~keys.is_heldout_N & ~keys.is_prompt_N)
            whole = int(each.weight)
            copies_N[rows] = whole
            copies_N[_lowest(rows, draws_N, round((each.weight - whole) * len(rows)))] += 1
    reason_N[(copies_N == 0) & (reason_N == 0)] = _NOT_DRAWN
    return Decisions(reason_N, keys.is_heldout_N, copies_N)


def asks_any(keys: RowKeys, prompts: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """[N] whether a row asks one of `prompts` in any of its turns."""
    if not len(keys):
        return np.zeros(0, np.bool_)
    return np.logical_or.reduceat(np.isin(keys.asked_U, prompts), keys.asked_offsets[:-1])


def counts_by_set(
    decisions: Decisions, is_prompt_N: npt.NDArray[np.bool_], sets: Sequence[SetShare]
) -> dict[str, dict[str, int]]:
    """Name of a set -> how many of its rows are on which side, how often they count there, and how many are dropped."""
    kept_N = decisions.reason_N == 0
    train_N = kept_N & ~decisions.is_heldout_N & ~is_prompt_N
    found = {}
    for each in sets:
        rows = each.rows
        found[each.name] = {
            "train": int(decisions.copies_N[rows][train_N[rows]].sum()),
            "distinct_train": int(train_N[rows].sum()),
            "heldout": int((kept_N & decisions.is_heldout_N & ~is_prompt_N)[rows].sum()),
            "prompts": int((kept_N & is_prompt_N)[rows].sum()),
            "dropped": int((~kept_N)[rows].sum()),
        }
    return found


def _of(each: SetShare, chosen_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The numbers of a set's rows that are chosen."""
    return each.rows.start + np.flatnonzero(chosen_N[each.rows])


def _lowest(rows: npt.NDArray[np.int64], draws_N: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.int64]:
    """The `count` of `rows` that draw the lowest numbers, from the lowest on."""
    return rows[np.argsort(draws_N[rows], kind="stable")][:count]
