"""Rows as people have them, among them those of public reports about other trainers."""

import json
from typing import Any

import pytest

from tests.unit.training.feedback.feedback_rows import asked, said
from training.conversations.messages import BadRow
from training.feedback.config import FeedbackSource
from training.feedback.formats import FeedbackParser

HH = "\n\nHuman: What is 1+1?\n\nAssistant: Two.\n\nHuman: And 2+2?\n\nAssistant:"
TWICE = "\n\nHuman: p\n\nHuman: q\n\nAssistant:"
PARTS = [{"type": "text", "text": "good"}]
HH_PROMPT = [*asked("What is 1+1?"), *said("Two."), *asked("And 2+2?")]


def parse(row: Any, **settings: Any) -> Any:
    return FeedbackParser(FeedbackSource(**settings), name="rows")(row)


def reason(row: Any, **settings: Any) -> str:
    with pytest.raises(BadRow) as caught:
        parse(row, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"prompt": asked("p"), "chosen": said("good"), "rejected": said("bad")},
        {"chosen": [*asked("p"), *said("good")], "rejected": [*asked("p"), *said("bad")]},
        {"prompt": None, "chosen": [*asked("p"), *said("good")], "rejected": [*asked("p"), *said("bad")]},
        # A text prompt beside whole conversations (TRL's issue 1886).
        {"prompt": "p", "chosen": [*asked("p"), *said("good")], "rejected": [*asked("p"), *said("bad")]},
        # ShareGPT's form with one message a side (LLaMA-Factory's issue 7696).
        {
            "conversations": [{"from": "human", "value": "p"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        # Answers that are objects with more in them (LLaMA-Factory's issue 4720).
        {"question": "p", "chosen": {"answer": "good", "score": 1.0}, "rejected": {"answer": "bad", "actions": ""}},
        # Messages as JSON, as CSV files have them.
        {"prompt": json.dumps(asked("p")), "chosen": json.dumps(said("good")), "rejected": "bad"},
        {
            "prompt": "p",
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "good"}]}],
            "rejected": "bad",
        },
        {"chosen": "\n\nHuman: p\n\nAssistant: good", "rejected": "\n\nHuman: p\n\nAssistant: bad"},
    ],
)
def test_every_way_to_write_a_pair_gives_the_same_pair(row: dict[str, Any]) -> None:
    found = parse(row)
    assert (found["kind"], found["prompt"], found["chosen"], found["rejected"]) == (
        "pair",
        asked("p"),
        said("good"),
        said("bad"),
    )


def test_an_instruction_comes_with_its_input() -> None:
    """LLaMA-Factory's issue 5455."""
    found = parse({"instruction": "Choose.", "input": "A or B?", "chosen": "A", "rejected": "B", "system": "Be brief."})
    assert found["prompt"] == [{"role": "system", "content": "Be brief."}, *asked("Choose.\n\nA or B?")]
    assert parse({"instruction": "Choose.", "input": "", "chosen": "A", "rejected": "B"})["prompt"] == asked("Choose.")


def test_transcripts_of_several_turns_share_all_that_comes_before_the_last_answer() -> None:
    found = parse({"chosen": HH + " Four.", "rejected": HH + " Five."})
    assert (found["prompt"], found["chosen"], found["rejected"]) == (HH_PROMPT, said("Four."), said("Five."))
    again = parse({"prompt": HH, "chosen": " Four.", "rejected": " Five."})
    assert again["prompt"] == HH_PROMPT


def test_answers_may_be_several_messages_with_tools_and_users_in_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chosen = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        *said("It is 42."),
    ]
    rejected = [*said("Which one?"), *asked("The first."), *said("No idea.")]
    found = parse({"prompt": "p", "chosen": chosen, "rejected": rejected, "tools": [{"name": "f"}]})
    assert [m["role"] for m in found["chosen"]] == ["assistant", "tool", "assistant"]
    assert found["rejected"] == rejected
    assert found["tools"] == [{"type": "function", "function": {"name": "f"}}]


def test_a_margin_is_read_or_is_the_difference_of_two_scores() -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert parse({**pair, "margin": 0.5})["margin"] == 0.5
    assert "margin" not in parse({**pair, "margin": None})
    scored = {**pair, "score_chosen": 8.0, "score_rejected": 3.0}
    columns = {"chosen_score": "score_chosen", "rejected_score": "score_rejected"}
    assert parse(scored, columns=columns, score_range=(0, 10))["margin"] == 0.5
    assert reason({**scored, "score_chosen": 2.0}, columns=columns) == "bad_margin"


def test_several_rejected_answers_are_a_ranking() -> None:
    """TRL's issue 1831."""
    found = parse({"prompt": "p", "chosen": "a", "rejected": ["b", "c", "b"]})
    assert (found["kind"], found["ranks"]) == ("ranking", [1, 2, 2])
    assert found["answers"] == [said("a"), said("b"), said("c")]


def test_rankings_have_ranks_in_a_list_in_each_answer_or_by_their_order() -> None:
    found = parse({"prompt": "p", "answers": ["a", "b", "c"], "ranks": [5, 1, 5]})
    assert (found["kind"], found["ranks"]) == ("ranking", [2, 1, 2])
    objects = [{"answer": "a", "rank": 2, "model": "m"}, {"answer": "b", "rank": 1}]
    found = parse({"prompt": HH, "answers": objects})
    assert (found["prompt"], found["ranks"], found["models"]) == (HH_PROMPT, [2, 1], ["m", None])
    # Answers from the best to the worst (LLaMA-Factory's issue 1913).
    ordered = {"instruction": "p", "input": "", "output": ["a", "b", "c"]}
    assert parse(ordered, rows="rankings", columns={"answers": "output"})["ranks"] == [1, 2, 3]


def test_an_answer_that_stands_twice_counts_once_and_not_with_two_ranks() -> None:
    found = parse({"prompt": "p", "answers": ["a", "b", "a "], "ranks": [1, 2, 1]})
    assert found["answers"] == [said("a"), said("b")]
    assert reason({"prompt": "p", "answers": ["a", "b", "a"], "ranks": [1, 2, 3]}) == "same_answers"


def test_scores_are_the_whole_score_the_mean_or_a_weighted_sum() -> None:
    completions = [
        {"response": "a", "overall_score": 8, "model": "m", "annotations": {}},
        {"response": "b", "overall_score": "3.5"},
    ]
    found = parse({"instruction": "p", "completions": completions, "source": "flan"})
    assert (found["kind"], found["scores"], found["models"]) == ("scores", [8.0, 3.5], ["m", None])
    rated = {"prompt": "p", "response": "a", "helpfulness": 4, "correctness": 3, "verbosity": 2}
    assert parse(rated)["scores"] == [3.0]
    assert parse(rated)["criteria"] == [{"helpfulness": 4.0, "correctness": 3.0, "verbosity": 2.0}]
    weighted = parse(rated, score_weights={"helpfulness": 1.0, "verbosity": -0.5}, score_range=(0, 4))
    assert weighted["scores"] == [3.0]
    assert weighted["score_range"] == (-2.0, 4.0)


@pytest.mark.parametrize(("value", "thumb"), [(True, True), (0, False), ("true", True), ("0", False), (1.0, True)])
def test_labels_are_thumbs_in_any_writing(value: Any, thumb: bool) -> None:
    found = parse({"prompt": "p", "completion": "a", "label": value})
    assert (found["kind"], found["answer"], found["label"]) == ("label", said("a"), thumb)
    whole = parse({"completion": [*asked("p"), *said("a"), *asked("q"), *said("b")], "label": value})
    assert (whole["prompt"][-1], whole["answer"]) == (asked("q")[0], said("b"))


def test_columns_of_other_names_are_mapped() -> None:
    columns = {"prompt": "Frage", "chosen": "pos_answer", "rejected": "neg_answer", "topic": "Thema"}
    row = {"Frage": "p", "pos_answer": {"answer": "a"}, "neg_answer": {"answer": "b"}, "Thema": "t", "prompt": "other"}
    found = parse(row, columns=columns)
    assert (found["prompt"], found["chosen"], found["topic"]) == (asked("p"), said("a"), "t")


def test_an_answer_that_is_a_json_list_stays_the_text_that_it_is() -> None:
    found = parse(
        {"prompt": "List them.", "chosen": '["Pristina", "Kuwait City"]', "rejected": '[{"name": "Pristina"}]'}
    )
    assert found["chosen"] == said('["Pristina", "Kuwait City"]')
    assert found["rejected"] == said('[{"name": "Pristina"}]')


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([PAIR], "not_an_object"),
        ({"text": "a"}, "unknown_format"),
        ({"prompt": "p"}, "missing_answer"),
        ({**PAIR, "chosen": None}, "null_answer"),
        ({**PAIR, "chosen": " \n"}, "empty_answer"),
        ({**PAIR, "rejected": []}, "empty_answer"),
        ({**PAIR, "rejected": 3}, "bad_answer"),
        ({**PAIR, "rejected": " a\n"}, "same_answers"),
        ({**PAIR, "prompt": ""}, "missing_prompt"),
        ({"chosen": "a", "rejected": "b"}, "missing_prompt"),
        ({**PAIR, "prompt": 7}, "bad_prompt"),
        ({**PAIR, "chosen": [{"role": "assistant", "content": None}]}, "null_content"),
        ({**PAIR, "chosen": [{"role": "assistant", "content": [{"type": "image_url"}]}]}, "other_modality"),
        ({**PAIR, "chosen": [{"role": "chair", "content": "a"}]}, "bad_role"),
        ({**PAIR, "chosen": [*said("a"), *asked("and?")]}, "user_at_end"),
        ({**PAIR, "chosen": [*said("a"), *said("b")]}, "not_alternating"),
        ({**PAIR, "prompt": [*asked("p"), *said("q")]}, "not_alternating"),
        ({**PAIR, "prompt": [{"role": "system", "content": "s"}]}, "no_user_turn"),
        ({**PAIR, "chosen": [*asked("q"), *said("a")], "rejected": [*asked("q"), *said("b")]}, "prompt_differs"),
        ({**PAIR, "chosen": [*asked("p"), *said("a")]}, "prompts_differ"),
        ({"chosen": [*asked("p"), *said("a")], "rejected": [*asked("q"), *said("b")]}, "prompts_differ"),
        # One conversation is the beginning of the other (TRL's pull request 6472).
        ({"chosen": HH_PROMPT[:2], "rejected": [*HH_PROMPT, *said("Four.")]}, "missing_answer"),
        ({"chosen": HH_PROMPT[:2], "rejected": HH_PROMPT[:2]}, "same_answers"),
        ({"chosen": "\n\nHuman: p\n\nAssistant:", "rejected": "\n\nHuman: p\n\nAssistant: b"}, "missing_answer"),
        ({"chosen": f"{TWICE} a", "rejected": f"{TWICE} b"}, "not_alternating"),
        ({**PAIR, "margin": -1}, "bad_margin"),
        ({**PAIR, "margin": "much"}, "bad_margin"),
        ({**PAIR, "weight": float("nan")}, "bad_weight"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": [1]}, "ranks_do_not_fit"),
        ({"prompt": "p", "answers": [{"answer": "a", "rank": 1}, {"answer": "b"}]}, "ranks_do_not_fit"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": [1, 1.5]}, "bad_rank"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": [1, True]}, "bad_rank"),
        ({"prompt": "p", "answers": ["a", "b"], "ranks": [3, 3]}, "all_tied"),
        ({"prompt": "p", "answers": ["a"], "ranks": [1]}, "single_answer"),
        ({"prompt": "p", "answers": [], "ranks": []}, "missing_answer"),
        ({"prompt": "p", "answers": ["a", None], "ranks": [1, 2]}, "null_answer"),
        ({"prompt": "p", "answers": ["a", "b"], "scores": [1.0]}, "scores_do_not_fit"),
        ({"prompt": "p", "response": "a", "score": None}, "null_score"),
        ({"prompt": "p", "response": "a", "score": "good"}, "bad_score"),
        ({"prompt": "p", "response": "a", "score": float("inf")}, "bad_score"),
        ({"prompt": "p", "completion": "a", "label": None}, "null_label"),
        ({"prompt": "p", "completion": "a", "label": 0.5}, "bad_label"),
        ({"prompt": "p", "completion": "a", "label": "maybe"}, "bad_label"),
    ],
)  # fmt: skip
def test_what_is_no_feedback_is_refused_by_a_word(row: Any, expected: str) -> None:
    assert reason(row) == expected


def test_scores_outside_their_range_are_refused() -> None:
    assert reason({"prompt": "p", "response": "a", "score": 11}, score_range=(0, 10)) == "score_out_of_range"
