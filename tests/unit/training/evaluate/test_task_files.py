"""Tasks are read item by item, and rows that are none are set aside with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.evaluate.config import EvaluateConfig
from training.evaluate.task_config import Task
from training.evaluate.task_files import read_task

ROOT = Path(__file__).resolve().parents[4]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_rows_that_are_no_items_are_quarantined_with_their_place(tmp_path: Path) -> None:
    good = {"prompt": "2 + 2?", "choices": ["3", "4"], "answer": 1, "group": "sums"}
    bad = [
        ("{", "bad_json"),
        ({**good, "prompt": " "}, "missing_prompt"),
        ({**good, "answer": 2}, "bad_answer"),
        ({**good, "answer": True}, "bad_answer"),
        ({**good, "choices": ["4"]}, "bad_choices"),
        ({**good, "choices": ["4", ""]}, "bad_choices"),
        ({**good, "group": 7}, "bad_group"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "assistant_at_the_end",
        ),
    ]
    path = write(tmp_path / "t.jsonl", [good, *(row for row, _ in bad)])
    items, quarantined = read_task(Task(kind="multiple_choice", inputs=(path,)))
    assert [(item.texts, item.right, item.group) for item in items] == [(("3", "4"), 1, "sums")]
    assert sorted(row.reason for row in quarantined) == sorted(reason for _, reason in bad)
    assert all(row.uri.endswith("t.jsonl") and row.offset > 0 for row in quarantined)


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("exact_match", {"answer": None}, "bad_answer"),
        ("checks", {"checks": []}, "missing_checks"),
        ("checks", {"checks": [{"check": "os.system"}]}, "unknown_check"),
        ("pairs", {"chosen": "a", "rejected": "a"}, "chosen_equals_rejected"),
        ("refusals", {"should_refuse": "yes"}, "missing_should_refuse"),
    ],
)
def test_every_kind_says_what_it_misses(tmp_path: Path, kind: Any, row: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "t.jsonl", [{"prompt": "a", **row}])
    items, quarantined = read_task(Task(kind=kind, inputs=(path,)))
    assert items == []
    assert [row.reason for row in quarantined] == [reason]


def test_items_on_one_prompt_are_one_cluster() -> None:
    items, quarantined = read_task(Task(kind="pairs", inputs=(str(ROOT / "job_specs/data/hhh_alignment.jsonl"),)))
    assert (len(items), len(quarantined)) == (221, 0)
    assert {item.group for item in items} == {"helpful", "honest", "harmless", "other"}
    assert len({item.id for item in items}) == 221 > len({item.cluster for item in items})


def test_refusals_bring_their_own_items() -> None:
    items, _ = read_task(Task(kind="refusals"))
    assert [sum(item.should_refuse == side for item in items) for side in (True, False)] == [30, 30]
    few, _ = read_task(Task(kind="refusals", max_items=10))
    assert [sum(item.should_refuse == side for item in few) for side in (True, False)] == [5, 5]
    with pytest.raises(ValidationError, match="needs inputs"):
        Task(kind="pairs")


def test_an_evaluation_that_can_measure_nothing_is_refused_with_all_reasons() -> None:
    with pytest.raises(ValidationError) as caught:
        EvaluateConfig(models={"a": "sft"}, baseline="b", reward_model="reward_model")
    message = str(caught.value)
    assert "baseline: is none of models: a" in message
    assert "nothing would be measured" in message
    assert "reward_model: judges answers to held-out prompts" in message


def test_the_baseline_is_in_the_fingerprint_though_the_order_of_models_is_not() -> None:
    first = EvaluateConfig(models={"a": "sft", "b": "dpo"}, tokens="tokens")
    other = EvaluateConfig(models={"b": "dpo", "a": "sft"}, tokens="tokens")
    assert (first.baseline, other.baseline) == ("a", "b")
    assert EvaluateConfig(models={"b": "dpo", "a": "sft"}, tokens="tokens", baseline="a").baseline == "a"
