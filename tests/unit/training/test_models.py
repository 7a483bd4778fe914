"""Model presets and configs: sizes as named, and nothing misspelt gets through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster.contracts.errors import InputError
from training.models import PRESETS, check_sequence_length, model_config, new_model

SMALL = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


class TokenizerOf(SimpleNamespace):
    """As much of a tokenizer as a model config asks for."""

    def __len__(self) -> int:
        return int(self.size)


def tokenizer(size: int = 32_000) -> Any:
    return TokenizerOf(size=size, bos_token_id=None, eos_token_id=2, pad_token_id=0)


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("30m", 30), ("125m", 125), ("350m", 350), ("1b", 1100), ("3b", 3200), ("7b", 7200)],
)
def test_presets_have_the_size_of_their_name(preset: str, millions: float) -> None:
    with torch.device("meta"):
        model = new_model(model_config(preset, tokenizer=tokenizer()))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.1)


def test_tiny_has_2_4_million_parameters_at_a_vocabulary_of_4096() -> None:
    model = new_model(model_config("tiny", tokenizer=tokenizer(4096)))
    # Embedding 4096 x 192; per layer: q and o 192 x 192, k and v 192 x 64, three MLP matrices 192 x 512, two norms.
    per_layer = 2 * 192 * 192 + 2 * 192 * 64 + 3 * 192 * 512 + 2 * 192
    assert sum(p.numel() for p in model.parameters()) == 4096 * 192 + 4 * per_layer + 192


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_heads_divide_evenly(preset: str) -> None:
    shape = PRESETS[preset]
    assert shape.hidden_size % shape.num_heads == 0
    assert shape.num_heads % shape.num_kv_heads == 0


def test_vocabulary_and_special_tokens_are_the_tokenizers() -> None:
    config = model_config("tiny", tokenizer=tokenizer(5000))
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id, config.bos_token_id) == (5000, 2, 0, None)


def test_any_causal_lm_type_is_taken() -> None:
    config = model_config({"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}, tokenizer=tokenizer(100))
    assert type(new_model(config)).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("huge", "'huge' is no preset; there are tiny"),
        ({"model_type": "bert_of_sorts"}, "model_type is 'bert_of_sorts'; it must be a causal-LM type"),
        ({"hidden_size": 8}, "model_type is None"),
        ({"model_type": "llama", "hiden_size": 8}, "does not know: hiden_size"),
        ({"model_type": "llama", "hidden_size": 33}, "no valid 'llama' config: The hidden size .33. is not a multiple"),
        ({"model_type": "llama", "vocab_size": 10}, "vocab_size is 10 and the tokenizer has 32000"),
    ],
)
def test_bad_models_are_refused(model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_config(model, tokenizer=tokenizer())


def test_sequences_over_the_models_positions_are_refused() -> None:
    config = model_config("tiny", tokenizer=tokenizer())
    check_sequence_length(1024, config)
    with pytest.raises(InputError, match="sequence_length is 1025 and the model has 1024 positions"):
        check_sequence_length(1025, config)


def test_the_same_seed_gives_the_same_weights() -> None:
    config = model_config(SMALL, tokenizer=tokenizer(50))
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(new_model(config).state_dict())
    for name, tensor in models[0].items():
        assert torch.equal(tensor, models[1][name])
