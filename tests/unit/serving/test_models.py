"""What is found out about a model directory before it is served."""

from pathlib import Path

from serving.models import stop_token_ids
from tests.unit.serving.tiny_models import tiny_policy, tiny_tokenizer


def test_a_server_stops_where_the_chat_template_ends_answers(tmp_path: Path) -> None:
    """A directory may name its base's end of text alone, in its configs and in its tokenizer."""
    tokenizer = tiny_tokenizer()
    end_of_text, end_of_turn = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    tokenizer.eos_token = "<|endoftext|>"
    tiny_policy(eos_token_id=end_of_text).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert stop_token_ids(str(tmp_path)) == (end_of_text, end_of_turn)


def test_a_base_model_without_a_template_stops_at_its_end_of_text(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tiny_policy(eos_token_id=0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert stop_token_ids(str(tmp_path)) == (0, tokenizer.eos_token_id)
