"""From the items of all models to what the report shows: figures, intervals, differences, and tasks' scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from training.evaluate.answering import SAMPLED, Answer, prompt_text, task_question
from training.evaluate.checkers import normalised, passes
from training.evaluate.items import Row, grouped, values_of
from training.evaluate.probes import is_refusal
from training.evaluate.statistics import Interval, ItemValues, difference, interval
from training.evaluate.task_config import Task
from training.evaluate.task_files import TaskItem

Better = Literal["lower", "higher"]
_BETTER: Mapping[str, Better] = {
    "heldout_loss": "lower",
    "heldout_bits_per_byte": "lower",
    "heldout_answer_loss": "lower",
    "heldout_answer_bits_per_byte": "lower",
    "preference_accuracy": "higher",
    "reward_mean": "higher",
    "reward_win_rate": "higher",
    "judged_win_rate": "higher",
}
PER_TOKEN = frozenset({"heldout_loss", "heldout_answer_loss"})
"""Figures that compare only between models of one vocabulary."""
AGAINST_BASELINE = frozenset({"reward_win_rate", "judged_win_rate"})
"""Figures that are comparisons themselves: one half is as good as the baseline."""


def better(figure: str) -> Better | None:
    """Which way a figure is better; None where neither is."""
    if figure.startswith("task/"):
        return "lower" if "/over_refusals" in figure else "higher"
    return _BETTER.get(figure)


def answer_values(answers: Sequence[Answer]) -> dict[str, ItemValues]:
    """What can be told of sampled answers by themselves: whether they come to an end, and how long they are."""
    if not answers:
        return {}
    return {
        "finished_fraction": values_of((a.item, a.cluster, float(a.finish_reason == "stop"), 1.0) for a in answers),
        "mean_answer_tokens": values_of((a.item, a.cluster, float(len(a.answer_ids)), 1.0) for a in answers),
    }


def distinct_fraction(answers: Sequence[Answer]) -> float:
    """How many of the sampled answers are not said twice. It has no interval: no item has it by itself."""
    return len({answer.answer for answer in answers}) / len(answers)


def win_rate(rewards: ItemValues, baseline: ItemValues) -> ItemValues:
    """1 where a model's answer has the higher reward than the baseline's to the same prompt, 0.5 for equal ones."""
    theirs = dict(zip(baseline.items, baseline.numerators_N.tolist(), strict=True))
    rows: list[Row] = []
    for item, cluster, own in zip(rewards.items, rewards.clusters, rewards.numerators_N.tolist(), strict=True):
        if item in theirs:
            rows.append((item, cluster, 1.0 if own > theirs[item] else 0.5 if own == theirs[item] else 0.0, 1.0))
    return values_of(rows)


def task_values(name: str, task: Task, items: Sequence[TaskItem], answers: Sequence[Answer]) -> dict[str, ItemValues]:
    """The scores of one model's answers to a task's items."""
    by_id = {item.id: item for item in items}
    answered = [(by_id[a.item], a) for a in answers if a.question == task_question(name)]
    if task.kind == "refusals":
        figures = {}
        for figure, should_refuse in (("refusals", True), ("over_refusals", False)):
            rows = [
                (item.id, item.cluster, float(is_refusal(answer.answer)), 1.0)
                for item, answer in answered
                if item.should_refuse == should_refuse
            ]
            if rows:
                figures[f"task/{name}/{figure}"] = values_of(rows)
        return figures
    is_right = _matches_exactly if task.kind == "exact_match" else _passes_all
    rows = [(item.id, item.cluster, float(is_right(item, answer.answer)), 1.0) for item, answer in answered]
    return grouped(f"task/{name}/accuracy", rows, [item.group for item, _ in answered])


def compared(
    values: Mapping[str, Mapping[str, ItemValues]],
    *,
    baseline: str,
    vocabularies: Mapping[str, str],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """`figures`, `intervals` and `differences` of models, given model -> figure -> items."""
    figures: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, list[float]]] = {}
    differences: list[dict[str, Any]] = []
    for model, own in values.items():
        figures[model] = {figure: items.value for figure, items in own.items() if math.isfinite(items.value)}
        intervals[model] = {}
        for figure, items in own.items():
            found = interval(items, confidence=confidence, seed=seed)
            if found is not None:
                intervals[model][figure] = [found.low, found.high]
            reference = values[baseline].get(figure)
            is_comparable = figure not in PER_TOKEN or vocabularies[model] == vocabularies[baseline]
            if model == baseline or reference is None or not is_comparable or figure in AGAINST_BASELINE:
                continue
            if not set(items.items) & set(reference.items):
                continue
            delta = difference(items, reference, confidence=confidence, seed=seed)
            differences.append(
                {
                    "model": model,
                    "figure": figure,
                    "difference": delta.value,
                    "interval": None if delta.interval is None else [delta.interval.low, delta.interval.high],
                    "p": delta.p,
                    "num_items": delta.num_items,
                    "outcome": _outcome(figure, delta.interval),
                }
            )
    return {"figures": figures, "intervals": intervals, "differences": differences}


def side_by_side(answers: Mapping[str, Sequence[Answer]], greedy: str) -> list[dict[str, Any]]:
    """One entry per shown prompt, with the greedy and the sampled answer of every model that was asked."""
    found: dict[str, dict[str, Any]] = {}
    for model, given in answers.items():
        for answer in given:
            if answer.question == greedy:
                entry = {"prompt": prompt_text(answer.messages), "answers": {}, "sampled_answers": {}}
                found.setdefault(answer.item, entry)["answers"][model] = answer.answer
    for model, given in answers.items():
        for answer in given:
            if answer.question == SAMPLED and answer.item in found:
                found[answer.item]["sampled_answers"][model] = answer.answer
    return list(found.values())


def _outcome(figure: str, bounds: Interval | None) -> str | None:
    """Whether a difference whose interval excludes 0 is "better" or "worse"; None where it does not, or neither is."""
    wanted = better(figure)
    if bounds is None or wanted is None or bounds.low <= 0 <= bounds.high:
        return None
    return "better" if (bounds.low > 0) == (wanted == "higher") else "worse"


def _matches_exactly(item: TaskItem, answer: str) -> bool:
    return normalised(answer) in {normalised(text) for text in item.texts}


def _passes_all(item: TaskItem, answer: str) -> bool:
    return bool(np.all([passes(answer, check) for check in item.checks]))
