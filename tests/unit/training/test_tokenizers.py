"""The tokenizer of a model that is to be trained: its padding token and its chat template, or what could mend it."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.chat_tokenizers import tokenizer_for
from cluster.contracts.errors import InputError
from training.tokenizers import load_encoder, load_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def directory_with(path: Path, *, pad_token: str | None, template: str | None = CHATML) -> Path:
    tokenizer = tokenizer_for(CHATML)
    tokenizer.pad_token = pad_token
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    assert AutoTokenizer.from_pretrained(path).pad_token == pad_token
    return path


def test_without_a_padding_token_it_is_said_which_could_be_chosen(tmp_path: Path) -> None:
    directory = directory_with(tmp_path, pad_token=None)
    with pytest.raises(InputError, match=r"set pad_token: to one of <pad>, <unk>, <\|im_start\|>$"):
        load_encoder(directory)
    assert load_encoder(directory, pad_token="<unk>").tokenizer.pad_token == "<unk>"
    with pytest.raises(InputError, match="'<none>' is no token"):
        load_encoder(directory, pad_token="<none>")
    assert load_tokenizer(directory).pad_token == "</s>"  # for measuring, behind a mask


def test_a_reward_model_pads_with_another_token_than_the_one_that_ends_answers(tmp_path: Path) -> None:
    directory = directory_with(tmp_path, pad_token="<|im_end|>")
    assert load_encoder(directory).tokenizer.pad_token == "<|im_end|>"
    assert load_encoder(directory, pads_apart=True).tokenizer.pad_token == "<pad>"
    with pytest.raises(InputError, match="ends answers"):
        load_encoder(directory, pad_token="<|im_end|>", pads_apart=True)


def test_a_template_can_be_given_to_a_model_without_one(tmp_path: Path) -> None:
    directory = directory_with(tmp_path / "model", pad_token="<pad>", template=None)
    with pytest.raises(InputError, match="give one with chat_template:"):
        load_encoder(directory)
    (tmp_path / "mine.jinja").write_text(CHATML)
    encoder = load_encoder(directory, chat_template=[str(tmp_path / "mine.jinja")])
    assert encoder.stop_tokens == ("<|im_end|>",)
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}")
    with pytest.raises(InputError, match="does not take a question and an answer"):
        load_encoder(directory, chat_template=[str(tmp_path / "mine.jinja")])
