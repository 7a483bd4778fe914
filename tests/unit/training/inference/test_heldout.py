"""Held-out measures against hand-computed numbers."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.data.sampler import TokenSampler
from training.inference.heldout import HeldoutLoss, heldout_loss, token_bytes, unigram_entropy
from training.token_losses import token_losses_sum


def test_unigram_entropy_by_hand() -> None:
    shards = [np.array([3, 3], np.uint16), np.array([5, 9], np.uint16)]
    assert unigram_entropy(shards) == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4))


def test_unigram_entropy_of_equally_frequent_tokens_is_the_log_of_their_number() -> None:
    assert unigram_entropy([np.arange(64, dtype=np.uint16)]) == pytest.approx(math.log(64))


def bigram_model(input_ids: torch.Tensor, use_cache: bool) -> Any:
    """Gives token i + 1 after i a logit of 2, all others 0."""
    logits_BTV = 2.0 * torch.nn.functional.one_hot((input_ids + 1) % 10, 10).float()
    return SimpleNamespace(logits=logits_BTV)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_heldout_loss_weighs_every_token_the_same_on_any_number_of_ranks(world_size: int, batch_size: int) -> None:
    tokens_T = np.array([0, 1, 2, 3, 4, 0, 1, 7, 8, 9, 3], np.uint16)
    per_token = [
        math.log(math.exp(2) + 9) - (2 if following == current + 1 else 0)
        for current, following in zip(tokens_T[:-1].tolist(), tokens_T[1:].tolist(), strict=True)
    ]
    sampler = TokenSampler([tokens_T], sequence_length=4, seed=None)
    parts = [
        heldout_loss(
            bigram_model,
            sampler,
            batch_size=batch_size,
            device=torch.device("cpu"),
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    assert sum(part.num_tokens for part in parts) == 10
    assert sum(part.loss_sum for part in parts) == pytest.approx(sum(per_token), rel=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_batch_has_the_loss_of_its_documents_alone(attention: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attn_implementation=attention,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    lengths = [5, 1, 12, 7, 2, 21]
    tokens_T = np.random.default_rng(0).integers(0, 50, sum(lengths)).astype(np.uint16)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    packed = TokenSampler([tokens_T], len(tokens_T), seed=None, offsets=[offsets])
    found = heldout_loss(model, packed, batch_size=1, device=torch.device("cpu"))
    alone = torch.zeros((), dtype=torch.float64)
    for start, end in pairwise(offsets):
        if end - start > 1:
            ids_1T = torch.from_numpy(tokens_T[start:end].astype(np.int64))[None]
            with torch.no_grad():
                alone += token_losses_sum(model(input_ids=ids_1T[:, :-1]).logits, ids_1T[:, 1:])
    assert found.num_tokens == sum(length - 1 for length in lengths)
    assert found.loss_sum == pytest.approx(float(alone), rel=1e-5)
    across = heldout_loss(model, TokenSampler([tokens_T], 48, seed=None), batch_size=1, device=torch.device("cpu"))
    assert across.mean != pytest.approx(found.mean, rel=1e-3)


def test_token_bytes_are_the_bytes_that_tokens_stand_for(tmp_path: Path) -> None:
    content = {
        "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1, "Ġthe": 2, "Ã©": 3}},
        "decoder": {"type": "ByteLevel"},
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": True}],
    }
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    found = token_bytes(file, vocab_size=5)
    assert found is not None
    assert found.tolist() == [0, 1, 4, 2, 0]
    file.write_text(json.dumps({**content, "decoder": {"type": "WordPiece"}}))
    assert token_bytes(file, vocab_size=5) is None


def test_uniform_prediction_of_bytes_costs_eight_bits() -> None:
    assert HeldoutLoss(100 * math.log(256), 40, num_bytes=100).bits_per_byte == pytest.approx(8)
    assert HeldoutLoss(100 * math.log(256), 40).bits_per_byte is None
