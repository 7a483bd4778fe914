"""A model directory says where its answers end, and chats as the encoder that it was trained with."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.chat_tokenizers import tokenizer_for
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.exported import write_chat
from tests.chat_fixtures import make_model_directory

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK: Any = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]


def directory_with(path: Path, source: str, **settings: Any) -> tuple[Path, Any]:
    tokenizer = tokenizer_for(source)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        **settings,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path, tokenizer


def test_the_end_of_turn_comes_before_the_ends_that_the_base_has(tmp_path: Path) -> None:
    directory, tokenizer = directory_with(tmp_path, CHATML)
    write_chat(directory, ChatEncoder(tokenizer))
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "</s>")]
    assert LlamaConfig.from_pretrained(directory).eos_token_id == ends
    assert GenerationConfig.from_pretrained(directory).eos_token_id == ends
    loaded = AutoTokenizer.from_pretrained(directory)
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<pad>")
    assert LlamaConfig.from_pretrained(directory).pad_token_id == tokenizer.pad_token_id


def test_a_template_that_writes_the_end_of_text_goes_on_writing_the_same(tmp_path: Path) -> None:
    source = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    directory, tokenizer = directory_with(tmp_path, source)
    encoder = ChatEncoder(tokenizer)
    write_chat(directory, encoder)
    loaded = AutoTokenizer.from_pretrained(directory)
    assert loaded.eos_token == "</s>"
    assert ChatEncoder(loaded).encode(TALK) == encoder.encode(TALK)
    assert GenerationConfig.from_pretrained(directory).eos_token_id[0] == encoder.end_of_turn_id


@pytest.mark.parametrize("own", [CHATML, None])
def test_a_given_template_and_stop_token_go_with_the_model(tmp_path: Path, own: str | None) -> None:
    directory, tokenizer = directory_with(tmp_path, CHATML)
    if own is None:
        (directory / "chat_template.jinja").unlink()
    given = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
    encoder = ChatEncoder(tokenizer, chat_template=given, stop_token="<|im_end|>")
    write_chat(directory, encoder)
    loaded = ChatEncoder(AutoTokenizer.from_pretrained(directory))
    assert loaded.stop_token == "<|im_end|>"
    assert loaded.encode(TALK) == encoder.encode(TALK)
    assert loaded.tokenizer.decode(loaded.encode(TALK).input_ids_T) == "[user] Who?<|im_end|>[assistant] Me.<|im_end|>"


def test_a_model_that_chats_already_keeps_its_bytes(tmp_path: Path) -> None:
    make_model_directory(tmp_path)
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(tmp_path))
    write_chat(tmp_path, encoder)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_chat(tmp_path, ChatEncoder(AutoTokenizer.from_pretrained(tmp_path)))
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert json.loads(before["config.json"])["eos_token_id"][0] == encoder.end_of_turn_id
