"""Ids are those of apply_chat_template; the mask is the assistant's words with the token that ends them."""

from typing import Any

import pytest

from benchmarks.chat_tokenizers import tokenizer_for
from cluster.contracts.chat.encoder import IGNORE_INDEX, ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.errors import InputError
from tests.chat_fixtures import make_chat_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def talk(*contents: str, system: str | None = None) -> Any:
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system is not None else turns


def learnt(encoder: ChatEncoder, messages: Any, tools: Any = None) -> list[str]:
    """The texts that carry loss, one for each stretch of tokens."""
    encoded = encoder.encode(messages, tools)
    stretches: list[list[int]] = []
    previous = False
    for token, answer in zip(encoded.input_ids_T, encoded.assistant_mask_T, strict=True):
        if answer:
            stretches = [*stretches, []] if not previous else stretches
            stretches[-1].append(token)
        previous = answer
    return [encoder.tokenizer.decode(ids) for ids in stretches]


@pytest.mark.parametrize(
    "messages",
    [
        talk("What about it?", "Every day the old king sees it."),
        talk("Hi", "Hello there.", "And then?", "Nothing more, my friend."),
        talk("Hi", "Hello.", system="Be brief."),
        talk("Ünïcode — 日本?", "Ja, 日本 \U0001f600."),
        talk("\n\n lines ", "\nlines\n"),
    ],
)
def test_ids_and_mask_are_those_of_apply_chat_template(messages: Any) -> None:
    tokenizer = make_chat_tokenizer()
    reference = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    encoded = ChatEncoder(tokenizer).encode(messages)
    assert encoded.input_ids_T == reference["input_ids"]
    assert [int(a) for a in encoded.assistant_mask_T] == reference["assistant_masks"]


def test_labels_are_the_answers_with_their_end_and_nothing_else() -> None:
    tokenizer = make_chat_tokenizer()
    encoded = ChatEncoder(tokenizer).encode(talk("Who?", "Me.", "Why?", "Because."))
    labelled = [token for token in encoded.labels() if token != IGNORE_INDEX]
    assert tokenizer.decode(labelled) == "Me.<|im_end|>Because.<|im_end|>"


@pytest.mark.parametrize("source", [CHATML, MARKED])
def test_a_line_break_behind_the_end_of_turn_is_not_learnt(source: str) -> None:
    encoder = ChatEncoder(tokenizer_for(source))
    assert encoder.stop_tokens == ("<|im_end|>",)
    assert learnt(encoder, talk("Who?", "Me.", "Why?", "Because.")) == ["Me.<|im_end|>", "Because.<|im_end|>"]


@pytest.mark.parametrize("source", [CHATML, MARKED])
def test_turns_of_weight_zero_are_not_learnt(source: str) -> None:
    messages = talk("Who?", "Me.", "Why?", "Because.", "And?", "So.")
    messages[3]["weight"] = 0
    messages[5]["weight"] = 1.0
    tokenizer = tokenizer_for(source)
    encoder = ChatEncoder(tokenizer)
    assert learnt(encoder, messages) == ["Me.<|im_end|>", "So.<|im_end|>"]
    assert encoder.encode(messages).input_ids_T == tokenizer.apply_chat_template(messages, return_dict=False)


def test_a_template_that_drops_earlier_thinking_is_learnt_as_it_is_written() -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% if loop.last %}<think>\n"
        "{{ m.reasoning_content or '' }}</think>\n{% endif %}{% endif %}{{ m.content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    messages = talk("Who?", " Me. ", "Why?", " Because.")
    for message in messages[1::2]:
        message["reasoning_content"] = "Hm."
    encoder = ChatEncoder(tokenizer_for(source))
    assert learnt(encoder, messages) == ["Me.<|im_end|>", "Hm.</think>\nBecause.<|im_end|>"]


def test_calls_of_tools_are_learnt_and_what_tools_give_is_not() -> None:
    source = CHATML.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c | tojson }}</tool_call>{% endfor %}",
    )
    call = {"type": "function", "function": {"name": "weather", "arguments": {"in": "Paris"}}}
    messages = [
        *talk("What is the weather?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    first, second = learnt(ChatEncoder(tokenizer_for(source)), messages)
    assert first.startswith("<tool_call>")
    assert '"Paris"' in first
    assert first.endswith("</tool_call><|im_end|>")
    assert second == "It is sunny.<|im_end|>"
    with pytest.raises(ChatRefused, match="weather") as refused:
        ChatEncoder(tokenizer_for(CHATML)).encode(messages)
    assert refused.value.reason == "tool_call_dropped"


def test_a_template_without_an_end_of_turn_is_refused_and_stop_token_overrides() -> None:
    unended = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(InputError, match="would never stop"):
        _ = ChatEncoder(tokenizer_for(unended)).stop_tokens
    marks_too_little = MARKED.replace("<|im_end|>\n{% endgeneration %}", "{% endgeneration %}<|im_end|>\n")
    with pytest.raises(InputError, match=r"leaves out '<\|im_end\|>'"):
        _ = ChatEncoder(tokenizer_for(marks_too_little)).stop_tokens
    encoder = ChatEncoder(tokenizer_for(marks_too_little), stop_token="<|im_end|>")
    assert learnt(encoder, talk("Who?", "Me.", "Why?", "No.")) == ["Me.<|im_end|>", "No.<|im_end|>"]
    with pytest.raises(InputError, match="is no token"):
        ChatEncoder(tokenizer_for(CHATML), stop_token="<|nothing|>")


def test_a_conversation_that_the_template_refuses_has_a_reason_and_the_others_are_encoded() -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    encoder = ChatEncoder(tokenizer_for(source))
    good = talk("Who?", "Me.")
    refused, encoded = encoder.encode_batch([(talk("Who?", "Me.", system="Be brief."), None), (good, None)])
    assert isinstance(refused, ChatRefused)
    assert refused.reason == "template_refuses"
    assert "no system role" in str(refused)
    assert encoded == encoder.encode(good)


def test_an_answer_that_the_template_changes_is_refused() -> None:
    encoder = ChatEncoder(tokenizer_for(CHATML.replace("{{ m.content }}", "{{ m.content | replace('secret', '') }}")))
    with pytest.raises(ChatRefused) as refused:
        encoder.encode(talk("Who?", "The secret one."))
    assert refused.value.reason == "answer_changed"


def test_prompt_and_answer_are_what_a_policy_is_given_and_samples() -> None:
    encoder = ChatEncoder(tokenizer_for(CHATML))
    prompt, answer = talk("Who?", "Me.", "Why?"), {"role": "assistant", "content": "Because."}
    prompt_ids, answer_ids = encoder.prompt_answer(prompt, [answer])  # type: ignore[list-item]
    assert prompt_ids == encoder.encode_prompt(prompt)
    assert encoder.tokenizer.decode(answer_ids) == "Because.<|im_end|>"
    assert encoder.encode_finished([*prompt, answer]) == prompt_ids + answer_ids  # type: ignore[list-item]


def test_a_tokenizer_without_template_or_control_tokens_is_refused() -> None:
    tokenizer = tokenizer_for(CHATML)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        ChatEncoder(tokenizer)
    assert ChatEncoder(tokenizer, chat_template=CHATML).stop_tokens == ("<|im_end|>",)


def test_a_template_of_several_by_name_takes_the_one_for_tools() -> None:
    with_tools = "{% for t in tools %}{{ t | tojson }}{% endfor %}" + CHATML
    tokenizer = tokenizer_for(with_tools)
    tokenizer.chat_template = {"default": CHATML, "tool_use": with_tools}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    prompt = talk("Who?")
    ids = ChatEncoder(tokenizer).encode_prompt(prompt, [tool])
    assert ids == tokenizer.apply_chat_template(prompt, tools=[tool], add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids).startswith('{"type": "function"')
