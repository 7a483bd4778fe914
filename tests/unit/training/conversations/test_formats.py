"""Rows of every form that people have become the conversations that they are, or say why not."""

from typing import Any

import pytest

from training.conversations.config import ColumnNames, ConversationSet, InstructionTemplate
from training.conversations.formats import ParsedRow, RowParser
from training.conversations.messages import BadRow

USER = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Me."}
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}


def parse(row: Any, **settings: Any) -> ParsedRow:
    options = {name: settings.pop(name) for name in ("mend", "keep_prompts", "name") if name in settings}
    return RowParser(ConversationSet(inputs=["rows"], **settings), **options)(row)


def messages(row: Any, **settings: Any) -> Any:
    return parse(row, **settings).conversation["messages"]


def reason(row: Any, **settings: Any) -> str:
    with pytest.raises(BadRow) as caught:
        parse(row, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]},
        {"conversation": [{"role": "Human", "content": "Who?"}, {"role": "ASSISTANT", "content": "Me."}]},
        {"instruction": "Who?", "input": "", "output": "Me."},
        {"instruction": "Who?", "context": None, "response": "Me.", "category": "open_qa"},
        {"prompt": "Who?", "completion": "Me."},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": "Who?", "response": "Me."},
        {"question": "Who?", "answer": "Me."},
        {"messages": '[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]'},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Wh"}, "o?"]}, ANSWER]},
        {"prompt": "Who?", "prompt_id": "1", "messages": [USER, ANSWER]},
    ],
)
def test_every_form_of_a_row_is_told_by_its_columns(row: Any) -> None:
    assert parse(row) == ParsedRow({"messages": [USER, ANSWER]})  # type: ignore[typeddict-item]


def test_alpaca_has_its_input_behind_the_instruction_and_its_history_before() -> None:
    row = {"instruction": "Add.", "input": "1, 2", "output": "3", "history": [["Who?", "Me."]], "system": "Be brief."}
    assert messages(row) == [
        {"role": "system", "content": "Be brief."},
        USER,
        ANSWER,
        {"role": "user", "content": "Add.\n\n1, 2"},
        {"role": "assistant", "content": "3"},
    ]


def test_columns_of_other_names_are_mapped() -> None:
    row = {"q": "Who?", "a": "Me.", "s": "Be brief.", "w": 0.5, "kind": "x"}
    columns = ColumnNames(prompt="q", answer="a", system="s", weight="w", topic="kind")
    parsed = parse(row, columns=columns, name="mine").conversation
    assert parsed["messages"] == [{"role": "system", "content": "Be brief."}, USER, ANSWER]
    assert (parsed["weight"], parsed["topic"], parsed["source"]) == (0.5, "x", "mine")
    assert reason({"messages": [USER, ANSWER]}, columns=columns) == "missing_prompt"


def test_a_given_format_is_not_told_by_columns() -> None:
    row = {"messages": "not these", "instruction": "Who?", "output": "Me."}
    assert messages(row, format="alpaca") == [USER, ANSWER]
    assert reason({"messages": [USER, ANSWER]}, format="alpaca") == "missing_prompt"


def test_tools_calls_results_reasoning_and_weights_are_kept() -> None:
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", **CALL}], "reasoning_content": "Hm."},
            {"role": "tool", "content": "2", "tool_call_id": "1", "name": "add"},
            {"role": "assistant", "content": "Two.", "weight": 0},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "Me.", "train": True, "thinking": ""},
        ],
        "tools": [SCHEMA],
    }
    parsed = parse(row).conversation
    assert parsed["tools"] == [SCHEMA]
    assert parsed["messages"] == [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **CALL}], "reasoning_content": "Hm."},
        {"role": "tool", "content": "2", "tool_call_id": "1", "name": "add"},
        {"role": "assistant", "content": "Two.", "weight": 0.0},
        {"role": "user", "content": "And?"},
        ANSWER,
    ]


@pytest.mark.parametrize(
    "said",
    [
        {"tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1, "b": null}'}}]},
        {"tool_calls": [{"name": "add", "arguments": {"a": 1, "b": None}}]},
        {"tool_calls": '[{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": null}}}]'},
        {"function_call": {"name": "add", "arguments": '{"a": 1, "b": null}'}},
    ],
)
def test_calls_of_every_api_are_one_form(said: Any) -> None:
    row = {"messages": [USER, {"role": "assistant", "content": "", **said}]}
    assert messages(row)[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize("tools", [[SCHEMA], '[{"name": "add", "parameters": {"type": "object"}}]', SCHEMA["function"]])
def test_tools_of_every_api_are_one_form(tools: Any) -> None:
    assert parse({"messages": [USER, ANSWER], "tools": tools}).conversation["tools"] == [SCHEMA]
    assert parse({"messages": [USER, ANSWER], "functions": tools}).conversation["tools"] == [SCHEMA]


def turn(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([], "not_an_object"),
        ({"text": "x"}, "unknown_format"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "unknown_format"),
        ({"messages": []}, "missing_messages"),
        ({"messages": None}, "missing_messages"),
        ({"messages": "no list"}, "bad_message"),
        ({"messages": ["x"]}, "bad_message"),
        ({"messages": [None]}, "bad_message"),
        ({"messages": [turn("wizard")]}, "bad_role"),
        ({"messages": [{"content": "x"}]}, "bad_role"),
        ({"messages": [turn("user", None), turn("assistant")]}, "null_content"),
        ({"messages": [turn("user", " \n"), turn("assistant")]}, "empty_content"),
        ({"messages": [turn("user"), turn("assistant", None)]}, "null_content"),
        ({"messages": [turn("user"), turn("assistant", "")]}, "empty_answer"),
        ({"messages": [turn("user"), turn("assistant", [])]}, "null_content"),
        ({"messages": [turn("user", [{"type": "image_url", "image_url": {}}]), ANSWER]}, "other_modality"),
        ({"messages": [turn("user", [{"type": "text"}]), ANSWER]}, "bad_content"),
        ({"messages": [turn("user", 7), ANSWER]}, "bad_content"),
        ({"messages": [turn("user"), turn("user"), ANSWER]}, "not_alternating"),
        ({"messages": [turn("user"), ANSWER, ANSWER]}, "not_alternating"),
        ({"messages": [USER]}, "no_answer"),
        ({"messages": [USER, ANSWER, USER]}, "user_at_end"),
        ({"messages": [ANSWER, USER, ANSWER]}, "assistant_first"),
        ({"messages": [ANSWER]}, "no_user_turn"),
        ({"messages": [turn("system")]}, "no_user_turn"),
        ({"messages": [USER, ANSWER, turn("system"), USER, ANSWER]}, "system_later"),
        ({"messages": [USER, turn("tool"), ANSWER]}, "tool_without_call"),
        ({"messages": [USER, ANSWER, turn("tool")]}, "tool_at_end"),
        ({"messages": [USER, turn("assistant", "", tool_calls=[CALL]), USER, ANSWER]}, "not_alternating"),
        ({"messages": [USER, turn("assistant", "", tool_calls=[{}])]}, "bad_tool_call"),
        ({"messages": [USER, turn("assistant", "", function_call={"name": "f", "arguments": "{"})]}, "bad_tool_call"),
        ({"messages": [USER, turn("assistant", "x", weight=-1)]}, "bad_weight"),
        ({"messages": [USER, turn("assistant", "x", train="yes")]}, "bad_weight"),
        ({"messages": [USER, turn("assistant", "x", reasoning={"a": 1})]}, "bad_reasoning"),
        ({"messages": [USER, ANSWER], "tools": "{"}, "bad_tools"),
        ({"messages": [turn("system"), USER, ANSWER], "system": "y"}, "two_system_messages"),
        ({"instruction": "", "output": "x"}, "missing_prompt"),
        ({"instruction": "x", "output": ""}, "empty_answer"),
        ({"instruction": "x", "output": None}, "no_answer"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "bad_history"),
    ],
)
def test_every_fault_of_a_row_has_a_word(row: Any, expected: str) -> None:
    assert reason(row) == expected


def test_faults_of_order_are_mended_where_that_is_asked_for() -> None:
    row = {"messages": [ANSWER, USER, turn("user", "And?"), turn("assistant", "A"), turn("assistant", "B"), USER]}
    parsed = parse(row, mend=["merge_turns", "drop_first_answers", "drop_last_prompts"])
    assert parsed.conversation["messages"] == [turn("user", "Who?\n\nAnd?"), turn("assistant", "A\n\nB")]
    assert parsed.mended == ("merge_turns", "drop_first_answers", "drop_last_prompts")
    assert parse({"messages": [USER, ANSWER]}, mend=["merge_turns", "drop_last_prompts"]).mended == ()


def test_turns_are_not_merged_where_something_would_be_lost() -> None:
    weights = {"messages": [USER, turn("assistant", "A", weight=0), turn("assistant", "B")]}
    assert reason(weights, mend=["merge_turns"]) == "not_alternating"
    results = [turn("tool", "1", tool_call_id="a"), turn("tool", "2", tool_call_id="b")]
    row = {"messages": [USER, turn("assistant", "", tool_calls=[CALL, CALL]), *results, ANSWER]}
    assert messages(row, mend=["merge_turns"])[2:4] == results


def test_rows_without_an_answer_are_prompts_where_these_are_kept() -> None:
    for row in ({"prompt": "Who?"}, {"instruction": "Who?", "output": None}, {"messages": [USER]}):
        assert reason(row) == "no_answer"
        assert parse(row, keep_prompts=True) == ParsedRow({"messages": [USER]}, is_prompt=True)  # type: ignore[typeddict-item]
    assert parse({"messages": [USER, ANSWER, USER]}, keep_prompts=True).is_prompt
    # Dropping the last prompt comes first; a prompt alone is never dropped, since nothing would be left.
    both = {"keep_prompts": True, "mend": ["drop_last_prompts"]}
    assert not parse({"messages": [USER, ANSWER, USER]}, **both).is_prompt
    assert parse({"messages": [USER]}, **both).is_prompt


def test_a_system_message_of_the_set_is_for_conversations_without_one() -> None:
    assert messages({"messages": [USER, ANSWER]}, system="Be kind.")[0] == turn("system", "Be kind.")
    assert messages({"messages": [turn("system", "x"), USER, ANSWER]}, system="Be kind.")[0] == turn("system", "x")
    assert messages({"messages": [USER, ANSWER], "system": "y"}, system="Be kind.")[0] == turn("system", "y")


# What users reported of other loaders, by repository and number.


def test_sharegpt_with_openai_roles() -> None:  # axolotl 752: KeyError 'assistant'
    row = {"conversations": [{"from": "user", "value": "Who?"}, {"from": "assistant", "value": "Me."}]}
    assert messages(row) == [USER, ANSWER]


def test_sharegpt_that_the_assistant_begins() -> None:  # axolotl 723
    row = {"conversations": [{"from": "gpt", "value": "Hi."}, {"from": "human", "value": "Who?"}, turn("gpt", "Me.")]}
    assert reason(row) == "assistant_first"
    assert messages(row, mend=["drop_first_answers"]) == [USER, ANSWER]


def test_sharegpt_with_calls_and_observations() -> None:  # LLaMA-Factory 2529: invalid role tag
    row = {
        "conversations": [
            {"from": "human", "value": "Who?"},
            {"from": "gpt", "value": "Let me see."},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": null}}'},
            {"from": "observation", "value": '{"sum": 1}'},
            {"from": "gpt", "value": "Me."},
        ],
        "tools": "[]",
    }
    parsed = parse(row).conversation
    assert parsed["messages"][1] == {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}
    assert parsed["messages"][2] == {"role": "tool", "content": '{"sum": 1}'}
    assert "tools" not in parsed


def test_an_answer_that_is_an_object() -> None:  # LLaMA-Factory 4249: "dropped invalid example", and nothing more
    assert reason({"instruction": "x", "output": {"a": 1}}) == "bad_content"


def test_two_turns_of_one_speaker() -> None:  # LLaMA-Factory 2481: the whole run failed
    assert reason({"messages": [USER, USER, ANSWER]}) == "not_alternating"


def test_null_content_beside_calls() -> None:  # Synaptic-Tuner 42: 'NoneType' object is not subscriptable
    assert messages({"messages": [USER, turn("assistant", None, tool_calls=[CALL])]})[1]["content"] == ""


def test_misspelt_roles_are_named_and_not_guessed() -> None:  # LLaMA-Factory 2381: "hummany"
    assert reason({"conversations": [{"from": "hummany", "value": "x"}, {"from": "gpt", "value": "y"}]}) == "bad_role"


def test_a_content_of_parts_beside_one_of_text() -> None:  # axolotl 3655: KeyError 0
    row = {"messages": [turn("system", "Be brief."), turn("user", [{"type": "text", "text": "Who?"}]), ANSWER]}
    assert messages(row) == [turn("system", "Be brief."), USER, ANSWER]


def test_empty_system_messages_are_left_out() -> None:  # as ShareGPT exports have them
    assert messages({"conversations": [turn("system", ""), USER, ANSWER], "system": ""}) == [USER, ANSWER]


def test_labelled_rows_become_instructions_by_a_template_that_their_content_draws() -> None:
    template = InstructionTemplate.model_validate(
        {
            "prompt": ["Positive? {text}", "{text}\nIs {{this}} good? {more[1]}"],
            "answer": "{label}.",
            "labels": {"label": {0: "No", 1: "Yes", "true": "True"}},
        }
    )
    rows = [{"text": f"It is {n}.", "label": n % 2, "more": ["a", "b"]} for n in range(200)]
    made = [messages(row, template=template) for row in rows]
    assert {m[1]["content"] for m in made} == {"No.", "Yes."}
    first = [m[0]["content"].startswith("Positive? It is") for m in made]
    assert 60 < sum(first) < 140
    assert made[first.index(False)][0]["content"].endswith("\nIs {this} good? b")
    assert [messages(row, template=template) for row in reversed(rows)] == made[::-1], "the order does not matter"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"label": 0}, "missing_column"),
        ({"text": None, "label": 0}, "null_column"),
        ({"text": ["a"], "label": 0}, "not_text"),
        ({"text": "a", "label": 7}, "unknown_label"),
        ({"text": " ", "label": 0}, "empty_content"),
        ({"text": "a", "label": 1}, "empty_answer"),
    ],
)
def test_a_row_that_does_not_fill_its_template_has_a_word(row: Any, expected: str) -> None:
    settings = {"prompt": "{text}", "answer": "{label}", "labels": {"label": {0: "no", 1: ""}}}
    assert reason(row, template=InstructionTemplate.model_validate(settings)) == expected


@pytest.mark.parametrize("prompt", ["{text.__class__}", "{text!r}", "{text:>10}", "{}", "{a[b]}", "{", "{a[0][1]}"])
def test_templates_that_compute_or_reach_into_values_are_refused(prompt: str) -> None:
    settings = {"inputs": ["x"], "template": {"prompt": prompt, "answer": "{label}"}}
    assert [where for where, _ in ConversationSet.model_validate(settings).source_conflicts()] == ["template.prompt.0"]
