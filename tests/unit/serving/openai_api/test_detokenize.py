from typing import Any

import pytest

from serving.openai_api.detokenize import TextStream
from tests.unit.serving.tiny_models import tiny_tokenizer

TEXTS = ["hello there, how are you?", "日本語 and ünïcödé 🙂🙂 done", "  leading and trailing  ", "a\n\nb\tc"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def pieces(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.push(token) for token in ids), stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_to_the_text_and_none_splits_a_character(tokenizer: Any, text: str) -> None:
    made = pieces(TextStream(tokenizer), tokenizer(text)["input_ids"])
    assert "".join(made) == text
    assert not any("\ufffd" in piece for piece in made)


def test_control_tokens_are_not_shown(tokenizer: Any) -> None:
    ids = [*tokenizer("bye")["input_ids"], tokenizer.eos_token_id]
    assert "".join(pieces(TextStream(tokenizer), ids)) == "bye"


def test_bytes_that_never_become_a_character_are_shown_at_the_end(tokenizer: Any) -> None:
    ids = tokenizer("語")["input_ids"]
    assert len(ids) > 1
    made = pieces(TextStream(tokenizer), ids[:-1])
    assert made[:-1] == [""] * (len(ids) - 1)
    assert made[-1] == "\ufffd"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["how"], "hello there, "),
        (["you?", "there"], "hello "),
        ([", h", "ello there, how are z"], "hello there"),
        (["never"], "hello there, how are you?"),
        (["you??"], "hello there, how are you?"),
        (["hello"], ""),
    ],
)
def test_text_ends_before_the_first_stop_string(tokenizer: Any, stop: list[str], expected: str) -> None:
    stream = TextStream(tokenizer, stop)
    assert "".join(pieces(stream, tokenizer(TEXTS[0])["input_ids"])) == expected
    assert stream.stopped == (expected != TEXTS[0])


def test_nothing_of_a_stop_string_is_ever_let_out(tokenizer: Any) -> None:
    stream = TextStream(tokenizer, ["there, how"])
    shown = ""
    for token in tokenizer(TEXTS[0])["input_ids"]:
        shown += stream.push(token)
        assert "hello ".startswith(shown)


def test_an_endless_run_of_broken_bytes_does_not_hold_a_stream_up(tokenizer: Any) -> None:
    broken = tokenizer("語")["input_ids"][0]
    made = pieces(TextStream(tokenizer), [broken] * 40)
    assert sum(bool(piece) for piece in made) >= 5
    assert set("".join(made)) == {"\ufffd"}
