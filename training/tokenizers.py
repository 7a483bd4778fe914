"""Loads a model's tokenizer for training, and finds the token with which its chat template ends an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.contracts.errors import InputError
from cluster.contracts.records import Message
from training.conversations.rendering import encode_prompt_answer


def load_tokenizer(directory: Path) -> Any:
    """The fast tokenizer in a model directory. Raises `InputError` where it has no padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if tokenizer.pad_token_id is None:
        raise InputError(f"the tokenizer in {directory} has no padding token; training needs one of its own")
    return tokenizer


def end_of_turn_id(tokenizer: Any) -> int:
    """The token with which the chat template ends an answer; sampling stops there.

    Raises `InputError` for a template that ends answers with ordinary text, which sampling can't stop at.
    """
    _, answer_ids = encode_prompt_answer(
        tokenizer, [Message(role="user", content="a")], Message(role="assistant", content="b")
    )
    if not tokenizer.added_tokens_decoder.get(answer_ids[-1]):
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} does not end an answer with a special token inside "
            "{% generation %}, so a policy can't learn to stop"
        )
    return answer_ids[-1]
