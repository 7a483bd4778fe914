"""Loads a model's tokenizer for training, with a padding token, and the encoder of its conversations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.errors import InputError
from training.base_model.inspection import padding_candidates


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer in a model directory. One that has no padding token pads with its end of text.

    That is for measuring alone, where attention masks say what is padding.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or next(iter(tokenizer.get_vocab()))
    return tokenizer


def load_encoder(
    directory: Path,
    *,
    chat_template: Sequence[str] = (),
    stop_token: str | None = None,
    pad_token: str | None = None,
    pads_apart: bool = False,
) -> ChatEncoder:
    """The encoder of a model that is to be trained, with the settings of these names (`TrlConfig`).

    With `pads_apart` the padding token is none that ends answers: a classifier finds the last token by looking for the
    last that is no padding. Where the tokenizer's own does, another control token is taken. Raises `InputError` where
    there is no padding token, or the chat template is of no use.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    template = storage.read_bytes(chat_template[0]).decode() if chat_template else None
    encoder = ChatEncoder(tokenizer, chat_template=template, stop_token=stop_token)
    stops = encoder.stop_tokens
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise InputError(f"pad_token {pad_token!r} is no token of the tokenizer in {directory}")
        if pads_apart and pad_token in stops:
            raise InputError(f"pad_token {pad_token!r} ends answers, and a reward model needs another one")
        tokenizer.pad_token = pad_token
        return encoder
    candidates = [token for token in padding_candidates(tokenizer) if token not in stops]
    if tokenizer.pad_token_id is None:
        named = ", ".join(candidates) or "a token that no text has"
        raise InputError(f"the tokenizer in {directory} has no padding token; set pad_token: to one of {named}")
    if pads_apart and tokenizer.pad_token in stops:
        if not candidates:
            raise InputError(
                f"the tokenizer in {directory} pads with {tokenizer.pad_token!r}, which ends answers, and has no other "
                "control token; set pad_token: to a token that no text ends with"
            )
        tokenizer.pad_token = candidates[0]
    return encoder
