"""Loads a model's tokenizer for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.contracts.errors import InputError


def load_tokenizer(directory: Path) -> Any:
    """The fast tokenizer in a model directory. Raises `InputError` where it has no padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise InputError(f"the tokenizer in {directory} has no padding token; training needs one of its own")
    return tokenizer
