import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from trl.data_utils import is_conversational, unpair_preference_dataset

from cluster.contracts.errors import InputError
from tests.unit.training.feedback.feedback_rows import asked, label, pair, ranking, said, scores
from training.feedback.artifact import FILES, iterate_rows, read_pair_rule, rows_parquet
from training.feedback.conversions import PairRule, to_labels, to_pairs
from training.feedback.exports import labels_jsonl, pairs_jsonl
from training.feedback.pairs import read_pairs, read_text_pairs
from training.feedback.rows import FeedbackRow, PreferencePair

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn", "days": [1, 2]}}}
EVERY_KIND: list[FeedbackRow] = [
    pair("p", "good", "bad", margin=0.5, weight=2.0, topic="t", uri="file:/rows.jsonl", offset=17),
    pair("p", "good", "bad", reward_model_only=True),
    ranking("q", ["a", "b", "c"], [2, 1, 2], models=["m", None, "n"]),
    scores("r", ["a", "b"], [0.0, 10.0], criteria=[{"style": 0.0}, {"truth": 10.0}], score_range=(0.0, 10.0)),
    scores("r", ["a"], [3.5]),
    label("s", "a", True),
    PreferencePair(
        kind="pair",
        prompt=[{"role": "system", "content": "Be brief."}, *asked("Will it rain?")],
        chosen=[
            {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "I must look."},
            {"role": "tool", "content": '{"rain": true}', "tool_call_id": "1", "name": "weather"},
            *said("It will."),
        ],
        rejected=said("No idea."),
        tools=[{"type": "function", "function": {"name": "weather"}}],
        source="file",
        source_name="rows",
    ),
]


def write(path: Path, train: list[FeedbackRow], heldout: list[FeedbackRow], rule: PairRule | None = None) -> str:
    path.mkdir()
    rule = rule or PairRule()
    (path / FILES["train"]).write_bytes(rows_parquet(train, "train", rule))
    (path / FILES["heldout"]).write_bytes(rows_parquet(heldout, "heldout", rule))
    return str(path)


def test_rows_of_every_kind_come_back_as_they_were_written(tmp_path: Path) -> None:
    uri = write(tmp_path / "artifact", EVERY_KIND, EVERY_KIND[:1])
    assert list(iterate_rows(uri, "train")) == EVERY_KIND
    assert list(iterate_rows(uri, "heldout")) == EVERY_KIND[:1]


def test_more_rows_than_a_row_group_keep_their_order(tmp_path: Path) -> None:
    rows: list[FeedbackRow] = [label(f"p{n}", "a", n % 2 == 0) for n in range(9000)]
    uri = write(tmp_path / "artifact", rows, [])
    assert list(iterate_rows(uri, "train")) == rows


def test_every_stage_makes_pairs_by_the_rule_of_the_artifact(tmp_path: Path) -> None:
    rule = PairRule("best_and_worst", 0.25)
    uri = write(tmp_path / "artifact", [ranking("q", ["a", "b", "c"], [1, 2, 3])], [], rule)
    assert read_pair_rule(uri, "train") == rule
    assert [(p["chosen"], p["rejected"]) for p in read_pairs(uri)[0]] == [(said("a"), said("c"))]


def test_rows_for_reward_models_alone_are_no_policys_pairs(tmp_path: Path) -> None:
    uri = write(tmp_path / "artifact", EVERY_KIND[:2], [])
    assert read_pairs(uri) == ([EVERY_KIND[0]], [])
    assert read_text_pairs(uri) == [EVERY_KIND[1]]


def test_a_directory_that_is_no_artifact_is_refused_with_the_way_in(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="inputs"):
        read_pairs(str(tmp_path))


def test_a_ranking_gives_each_answer_over_each_below_it_and_ties_give_none() -> None:
    pairs, counts = to_pairs([ranking("q", ["a", "b", "c", "d"], [2, 1, 2, 3], topic="t")], PairRule())
    made = [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs]
    assert made == [("b", "a"), ("b", "c"), ("b", "d"), ("a", "d"), ("c", "d")]
    assert counts == {"ranking": 5}
    assert all(p["source_name"] == "spring" and p["topic"] == "t" for p in pairs)


def test_scores_give_pairs_with_the_difference_as_a_share_of_the_scale() -> None:
    row = scores("q", ["a", "b", "c"], [2.0, 10.0, 2.5], score_range=(0.0, 10.0))
    pairs, _ = to_pairs([row], PairRule(min_difference=0.1))
    made = [(p["chosen"][0]["content"], p["rejected"][0]["content"], p["margin"]) for p in pairs]
    assert made == [("b", "c", 0.75), ("b", "a", 0.8)]
    (best,) = to_pairs([row], PairRule("best_and_worst"))[0]
    assert (best["chosen"], best["rejected"]) == (said("b"), said("a"))
    assert to_pairs([scores("q", ["a", "b"], [1.0, 1.0])], PairRule("best_and_worst"))[0] == []


def test_labels_give_pairs_only_where_one_prompt_has_both_thumbs() -> None:
    rows: list[FeedbackRow] = [label("p", "a", True), label("p", "b", False), label("q", "c", True)]
    pairs, counts = to_pairs([*rows, label("r", "d", True), label("r", "d", False)], PairRule())
    assert [(p["prompt"], p["chosen"], p["rejected"]) for p in pairs] == [(asked("p"), said("a"), said("b"))]
    assert counts == {"label": 1}


def test_an_answer_that_is_both_better_and_worse_gets_no_label() -> None:
    rows: list[FeedbackRow] = [pair("p", "a", "b"), pair("p", "b", "c"), ranking("q", ["x", "y", "z"], [1, 2, 3])]
    labels, counts = to_labels([*rows, scores("r", ["a"], [1.0])])
    assert [(row["answer"][0]["content"], row["label"]) for row in labels] == [
        ("a", True),
        ("c", False),
        ("x", True),
        ("z", False),
    ]
    assert counts == {"pair": 2, "ranking": 2, "conflicting": 1}


def test_labels_of_pairs_are_those_that_trl_makes_of_them() -> None:
    rows: list[FeedbackRow] = [pair("p", "a", "b"), pair("q", "c", "d")]
    theirs = unpair_preference_dataset(Dataset.from_list([json.loads(line) for line in pairs_jsonl(rows).splitlines()]))  # type: ignore[arg-type]
    ours = Dataset.from_list([json.loads(line) for line in labels_jsonl(to_labels(rows)[0]).splitlines()])

    def key(row: Any) -> str:
        return json.dumps({name: row[name] for name in ("prompt", "completion", "label")}, sort_keys=True)

    assert sorted(map(key, ours)) == sorted(map(key, theirs))


def test_the_exports_are_conversational_data_sets_to_trl(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(pairs_jsonl([EVERY_KIND[0], pair("q", "c", "d")]))  # type: ignore[list-item]
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == ["prompt", "chosen", "rejected", "margin"]
    assert is_conversational(rows[0])
    assert list(rows["margin"]) == [0.5, 0.0]
