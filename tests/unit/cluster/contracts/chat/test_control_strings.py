"""What people type stays text, for every kind of tokenizer; without control strings the ids are the tokenizer's own."""

import random
from typing import Any

import pytest

from benchmarks.chat_tokenizers import KINDS, Kind, tokenizer_for
from cluster.contracts.chat.control_strings import encode_text
from cluster.contracts.chat.encoder import ChatEncoder

SOURCE = (
    "{{ bos_token }}{% for t in tools or [] %}<|tool|>{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} ({{ m.name }}){% endif %}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<|call|>{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TYPED = [
    "<|im_end|>",
    "<|im_start|>",
    "<s>",
    "</s>",
    "<pad>",
    "<|call|>",
    "<|im_",
    "end|>",
    "<|",
    "\ue0000\ue001",
    "\ue002",
]
WORDS = ["hello", "the weather", " ", "  ", "\n", "assistant", "Paris", "é", "日本", "<", ">", "|", '"', "\\"]


def control_ids(tokenizer: Any) -> set[int]:
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}


def text(rng: random.Random, *, typed: bool) -> str:
    return "".join(rng.choice(TYPED if typed and rng.random() < 0.4 else WORDS) for _ in range(rng.randint(1, 9))) + "."


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_typed_becomes_a_control_token(kind: Kind) -> None:
    tokenizer = tokenizer_for(SOURCE, kind)
    encoder, control = ChatEncoder(tokenizer), control_ids(tokenizer)
    rng = random.Random(0)
    for _ in range(150):
        messages: Any = [
            {"role": "user", "content": text(rng, typed=True), "name": text(rng, typed=True)},
            {
                "role": "assistant",
                "content": text(rng, typed=True),
                "tool_calls": [
                    {
                        "function": {
                            "name": text(rng, typed=True),
                            "arguments": {text(rng, typed=True): text(rng, typed=True)},
                        }
                    }
                ],
            },
        ]
        tools = [{"type": "function", "function": {"name": text(rng, typed=True)}}]
        encoded = encoder.encode(messages, tools)
        found = [tokenizer.convert_ids_to_tokens(i) for i in encoded.input_ids_T if i in control]
        assert found == ["<s>", "<|tool|>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|call|>", "<|im_end|>"]
        last = max(place for place, answer in enumerate(encoded.assistant_mask_T) if answer)
        assert encoded.input_ids_T[last] == encoder.end_of_turn_id


@pytest.mark.parametrize("kind", KINDS)
def test_text_around_a_typed_control_string_is_encoded_as_around_any_other_text(kind: Kind) -> None:
    """Against a tokenizer that has no such control token, so that the string is text for it from the beginning."""
    typed = "<|quit|>"
    with_token, without = tokenizer_for(SOURCE + "{# <|quit|> #}", kind), tokenizer_for(SOURCE, kind)
    assert typed in with_token.get_vocab()
    assert typed not in without.get_vocab()
    rng = random.Random(1)
    for _ in range(100):
        content = (
            text(rng, typed=False) + rng.choice(["", " "]) + typed + rng.choice(["", " "]) + text(rng, typed=False)
        )
        messages: Any = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
        ours = ChatEncoder(with_token).encode(messages).input_ids_T
        plain = without.apply_chat_template(messages, return_dict=False)
        assert with_token.convert_ids_to_tokens(ours) == without.convert_ids_to_tokens(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_without_control_strings_the_ids_are_those_of_apply_chat_template(kind: Kind) -> None:
    tokenizer = tokenizer_for(SOURCE, kind)
    encoder = ChatEncoder(tokenizer)
    rng = random.Random(2)
    conversations: list[Any] = [
        [
            {"role": role, "content": text(rng, typed=False)}
            for role in ("system", "user", "assistant", "user", "assistant")
        ]
        for _ in range(100)
    ]
    encoded = encoder.encode_batch((messages, None) for messages in conversations)
    for messages, row in zip(conversations, encoded, strict=True):
        assert row.input_ids_T == tokenizer.apply_chat_template(messages, return_dict=False)  # type: ignore[union-attr]
        assert row == encoder.encode(messages)
        prompt = messages[:4]
        assert encoder.encode_prompt(prompt) == tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=False
        )


def test_other_settings_of_the_tokenizer_are_left_as_they_were() -> None:
    tokenizer = tokenizer_for(SOURCE)
    ChatEncoder(tokenizer).encode_prompt([{"role": "user", "content": "hello <|im_end|>"}])
    assert tokenizer("a<|im_end|>")["input_ids"][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_templates_that_change_messages_still_do() -> None:
    source = "{% for m in messages %}<|im_start|>{{ m.content | trim | upper }}<|im_end|>{% endfor %}"
    tokenizer = tokenizer_for(source)
    ids = ChatEncoder(tokenizer).encode_prompt([{"role": "user", "content": "  ab <|im_end|> cd "}])
    assert tokenizer.decode(ids[1:-1]) == "AB <|im_end|> CD"
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_never_makes_a_control_token(kind: Kind) -> None:
    tokenizer = tokenizer_for(SOURCE, kind)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in encode_text(tokenizer, "stop <|im_end|> here")
