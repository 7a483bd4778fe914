"""Each chat template that TRL ships, stock and training form, on tiny tokenizers. The checks are the benchmark's."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.chat_templates import (
    CONVERSATIONS,
    check_export,
    check_ids_and_mask,
    forms_of,
    learnt,
    template_names,
)
from benchmarks.chat_tokenizers import Kind, tokenizer_for
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused

FORMS = [(name, form) for name in template_names() for form in forms_of(name)]
REFUSED = {("glm4moe", "stock"): "would never stop"}
# Roles that a template refuses by raising.
NO_SYSTEM = {("gemma", "stock"), ("gemma", "training")}

CALL = {"type": "function", "id": "call00001", "function": {"name": "look_up", "arguments": {"place": "Paris"}}}
CALL_OF_TEXT = {**CALL, "function": {"name": "look_up", "arguments": '{"place": "Paris"}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "Where"}}},
    },
}


def talk_with(call: Any) -> Any:
    return [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "name": "look_up", "tool_call_id": "call00001"},
        {"role": "assistant", "content": "It is sunny."},
    ]


def in_parts(messages: Any) -> Any:
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def test_there_are_as_many_templates_as_were_counted() -> None:
    assert len(template_names()) == 41
    assert len(FORMS) == 72


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
@pytest.mark.parametrize(("name", "form"), FORMS)
def test_ids_are_those_of_apply_chat_template_and_the_loss_is_on_answers_and_their_end(
    name: str, form: str, kind: Kind
) -> None:
    checked = check_ids_and_mask(name, forms_of(name)[form], kind)
    assert checked.wrong == []
    if (name, form) in REFUSED:
        assert REFUSED[name, form] in checked.refused
        return
    assert checked.refused == ""
    expected = {"a system message": "template_refuses"} if (name, form) in NO_SYSTEM else {}
    assert checked.rows_refused == expected


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_an_exported_model_stops_in_plain_generate(name: str, form: str, tmp_path: Path) -> None:
    checked = check_export(forms_of(name)[form], tmp_path)
    assert checked.wrong == []
    assert bool(checked.refused) == ((name, form) in REFUSED)


@pytest.mark.parametrize("name", [name for name in template_names() if "training" in forms_of(name)])
def test_our_masks_lie_within_those_of_trls_training_template(name: str) -> None:
    """Where both forms write the same text. TRL marks more: what the prompt gives, and what follows the end.

    What follows is a line break, Phi-3's end of text, and Cohere's second token behind the one that ends an answer.
    """
    forms = forms_of(name)
    if (name, "stock") in REFUSED:
        return
    tokenizer = tokenizer_for(forms["stock"] + "{#" + forms["training"].replace("#}", "") + "#}")
    tokenizer.chat_template = forms["stock"]
    encoder = ChatEncoder(tokenizer)
    compared = 0
    for messages in CONVERSATIONS.values():
        given: Any = messages
        if encoder.template.contents_are_parts:
            given = in_parts(messages)
        try:
            ours = encoder.encode(messages)  # type: ignore[arg-type]
        except ChatRefused:
            continue
        theirs = tokenizer.apply_chat_template(
            given, chat_template=forms["training"], return_dict=True, return_assistant_tokens_mask=True
        )
        if theirs["input_ids"] != ours.input_ids_T:
            continue
        compared += 1
        pairs = list(zip(ours.input_ids_T, ours.assistant_mask_T, theirs["assistant_masks"], strict=True))
        assert not any(mine and not marked for _, mine, marked in pairs)
        beyond = tokenizer.decode([token for token, mine, marked in pairs if marked and not mine])
        for written in ("</s>", "<think>", "</think>", "<|END_OF_TURN_TOKEN|>", encoder._facts.generation_prompt):
            beyond = beyond.replace(written, "")
        assert beyond.strip() in {"", "<｜Assistant｜>", "<｜Assistant｜>" * 2}
    assert compared or name in {"qwen3", "qwen3_5_think", "qwen3_6"}, "all rows are written otherwise"


@pytest.mark.parametrize("name", template_names())
def test_calls_of_tools_and_reasoning_are_learnt_where_the_template_writes_them(name: str) -> None:
    """Or the row is refused with its reason; nothing is left out in silence, and the ids stay those of transformers."""
    source = forms_of(name)["stock"]
    if (name, "stock") in REFUSED:
        return
    tokenizer = tokenizer_for(source)
    encoder = ChatEncoder(tokenizer)
    as_parts = encoder.template.contents_are_parts
    reasons = set()
    for call in (CALL, CALL_OF_TEXT):  # the same, whichever form the template takes
        messages = talk_with(call)
        try:
            encoded = encoder.encode(messages, [TOOL])
        except ChatRefused as refused:
            reasons.add(refused.reason)
            continue
        taken = talk_with(CALL_OF_TEXT if name == "deepseekv3" else CALL)
        assert encoded.input_ids_T == tokenizer.apply_chat_template(
            taken if not as_parts else in_parts(taken), tools=[TOOL], return_dict=False
        )
        first, last = learnt(encoder, encoded)
        assert "look_up" in first
        assert "Paris" in first
        assert "sunny" not in first
        assert last.rstrip().endswith(encoder.stop_tokens)
        assert "It is sunny." in last
    assert reasons <= {"template_refuses", "tool_call_dropped", "turn_not_found"}
    reasoned: Any = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": "It is sunny.", "reasoning_content": "Clouds are gone."},
    ]
    encoded = encoder.encode(reasoned)
    (answer,) = learnt(encoder, encoded)
    assert ("Clouds are gone." in answer) == ("Clouds are gone." in tokenizer.decode(encoded.input_ids_T))
