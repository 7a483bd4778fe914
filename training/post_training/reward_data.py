"""What a reward model learns and is measured on: the rows of a preferences artifact in the form its loss takes.

Where all training rows are pairs of weight 1, they are TRL's rows. Rankings, scores and weights make groups. With
`learn: scores` every scored answer is a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.errors import InputError
from training.feedback.artifact import iterate_rows, read_pair_rule
from training.feedback.conversions import to_pairs
from training.feedback.encoded_answers import encode_answers
from training.feedback.encoded_groups import ScoredSequence, encode_groups, encode_scores
from training.feedback.encoded_pairs import EncodedPairs, encode_pairs
from training.feedback.rows import FeedbackRow, Scores
from training.post_training.comparison_trainer import group_rows, score_rows
from training.post_training.config import RewardModelConfig

Form = Literal["pairs", "groups", "scores"]


@dataclass(frozen=True)
class RewardData:
    """Training rows with their lengths, and what is measured."""

    form: Form
    rows: list[dict[str, Any]]
    lengths: list[int]
    heldout_rows: list[dict[str, Any]]  # in the same form
    sequences: list[list[int]]  # the conversations that are learned from
    train_pairs: EncodedPairs
    heldout_pairs: EncodedPairs
    heldout_orders: list[tuple[list[list[int]], list[float]]]  # conversations of a prompt, and their height in truth
    heldout_scored: list[ScoredSequence]
    counts: dict[str, int]


def read_reward_data(uri: str, encoder: ChatEncoder, config: RewardModelConfig) -> RewardData:
    """The data of the artifact at `uri`. Rows for reward models alone come after all others.

    Raises `InputError` where there is nothing to learn from or nothing to measure on.
    """
    train = sorted(iterate_rows(uri, "train"), key=lambda row: row.get("reward_model_only", False))
    rule = read_pair_rule(uri, "train")
    heldout = [row for row in iterate_rows(uri, "heldout") if not row.get("reward_model_only", False)]
    train_pairs, heldout_pairs = (
        encode_pairs(encoder, to_pairs(rows, rule)[0], max_length=config.max_length) for rows in (train, heldout)
    )
    counts = {
        "num_pairs_too_long": train_pairs.num_too_long + heldout_pairs.num_too_long,
        "num_pairs_refused": train_pairs.num_refused + heldout_pairs.num_refused,
    }
    heldout_scored: list[ScoredSequence] = []
    if config.learn == "scores":
        scored, num_too_long, num_refused = encode_scores(encoder, _scores(train), max_length=config.max_length)
        heldout_scored, *more = encode_scores(encoder, _scores(heldout), max_length=config.max_length)
        if not scored or not heldout_scored:
            raise InputError(f"{uri} has no scores of at most max_length {config.max_length} tokens on either side")
        values = np.array([item.score for item in scored])
        normalisation = {"mean": float(values.mean()), "std": float(values.std()) or 1.0}
        rows, heldout_rows = score_rows(scored, **normalisation), score_rows(heldout_scored, **normalisation)
        sequences = [[item.input_ids] for item in scored]
        form: Form = "scores"
        counts |= {"num_train_scores": len(scored), "num_heldout_scores": len(heldout_scored)}
        counts |= {"num_answers_too_long": num_too_long + more[0], "num_answers_refused": num_refused + more[1]}
    elif all(row["kind"] == "pair" and row.get("weight", 1.0) == 1.0 for row in train):
        form, rows = "pairs", _pair_rows(train_pairs, margin_scale=config.margin_scale)
        heldout_rows = _pair_rows(heldout_pairs, margin_scale=config.margin_scale)
        sequences = [[pair.chosen, pair.rejected] for pair in train_pairs.pairs]
    else:
        groups = encode_groups(encoder, train, rule, max_length=config.max_length)
        form, rows = "groups", group_rows(groups.groups, margin_scale=config.margin_scale)
        heldout_groups = encode_groups(encoder, heldout, rule, max_length=config.max_length)
        heldout_rows = group_rows(heldout_groups.groups, margin_scale=config.margin_scale)
        sequences = [group.sequences for group in groups.groups]
        counts |= {
            "num_train_groups": len(groups.groups),
            "num_answers_too_long": groups.num_answers_too_long + heldout_groups.num_answers_too_long,
            "num_answers_refused": groups.num_answers_refused + heldout_groups.num_answers_refused,
        }
    if not rows or not (heldout_pairs.pairs or heldout_scored):
        refused = (
            f"; {counts['num_pairs_refused']} are refused by the chat template" if counts["num_pairs_refused"] else ""
        )
        raise InputError(f"no pair of {uri} has at most max_length {config.max_length} tokens on either side{refused}")
    return RewardData(
        form=form,
        rows=rows,
        lengths=[max(map(len, found)) for found in sequences],
        heldout_rows=heldout_rows,
        sequences=list(chain.from_iterable(sequences)),
        train_pairs=train_pairs,
        heldout_pairs=heldout_pairs,
        heldout_orders=_orders(encoder, heldout, max_length=config.max_length),
        heldout_scored=heldout_scored,
        counts=counts,
    )


def _pair_rows(pairs: EncodedPairs, *, margin_scale: float) -> list[dict[str, Any]]:
    """TRL's rows; the margin stands in all of them or in none."""
    rows: list[dict[str, Any]] = [{"chosen_ids": pair.chosen, "rejected_ids": pair.rejected} for pair in pairs.pairs]
    margins = [row.get("margin", 0.0) * margin_scale for row in pairs.rows]
    if any(margins):
        rows = [{**row, "margin": margin} for row, margin in zip(rows, margins, strict=True)]
    return rows


def _scores(rows: Sequence[FeedbackRow]) -> list[Scores]:
    return [row for row in rows if row["kind"] == "scores"]


def _orders(
    encoder: ChatEncoder, rows: Sequence[FeedbackRow], *, max_length: int
) -> list[tuple[list[list[int]], list[float]]]:
    """The conversations of each ranking and of each row of several scores, with -rank or the score of each."""
    found = []
    for row in rows:
        if row["kind"] == "ranking":
            height = [-float(rank) for rank in row["ranks"]]
        elif row["kind"] == "scores":
            height = row["scores"]
        else:
            continue
        encoded = encode_answers(encoder, [(row, answer) for answer in row["answers"]])
        fitting = [
            (item.input_ids, value)
            for item, value in zip(encoded, height, strict=True)
            if item is not None and len(item.input_ids) <= max_length
        ]
        if len({value for _, value in fitting}) > 1:
            found.append(([ids for ids, _ in fitting], [value for _, value in fitting]))
    return found
