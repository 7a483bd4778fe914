"""Model presets and configs: sizes as named, and nothing misspelt gets through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from transformers import AutoConfig

from cluster.contracts.errors import InputError
from training.models import (
    PRESETS,
    check_attention_within_documents,
    check_buildable,
    check_looks_back_only,
    check_sequence_length,
    compile_layers,
    model_config,
    new_model,
)

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


class Graphs:
    """A backend of `torch.compile` that runs graphs as they are, and keeps them."""

    def __init__(self) -> None:
        self.found: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
        self.found.append(graph)
        return graph.forward

    def attention_calls(self) -> list[torch.fx.Node]:
        return [n for g in self.found for n in g.graph.nodes if n.target is F.scaled_dot_product_attention]


def test_layers_alike_share_one_graph_in_which_attention_is_causal_without_a_mask() -> None:
    settings = {**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 1, "attn_implementation": "sdpa"}
    torch.manual_seed(0)
    model = new_model(model_config(settings, tokenizer=tokenizer(64)))
    input_ids_BT = torch.randint(64, (2, 12))
    plain = model(input_ids=input_ids_BT, use_cache=False).logits
    graphs = Graphs()
    compile_layers(model, backend=graphs)
    compiled = model(input_ids=input_ids_BT, use_cache=False).logits
    torch.testing.assert_close(compiled, plain)
    assert len(graphs.found) == 1
    (call,) = graphs.attention_calls()
    assert call.kwargs["is_causal"] is True  # a mask would take SDPA off its fast kernels
    assert call.kwargs["attn_mask"] is None


def test_compiled_layers_keep_attention_inside_documents() -> None:
    torch.manual_seed(0)
    model = new_model(model_config({**SMALL, "num_hidden_layers": 2}, tokenizer=tokenizer(64)))
    input_ids_BT = torch.randint(64, (2, 12))
    position_ids_BT = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]])
    packed = {"input_ids": input_ids_BT, "position_ids": position_ids_BT, "use_cache": False}
    plain = model(**packed).logits
    compile_layers(model, backend=Graphs())
    torch.testing.assert_close(model(**packed).logits, plain)
    alone = model(input_ids=input_ids_BT[:1, 5:], use_cache=False).logits
    torch.testing.assert_close(plain[:1, 5:], alone)


ALONE = {"llama": {}, "gpt2": {}, "mistral": {"sliding_window": 8, "num_key_value_heads": 1}, "gpt_neox": {}}
TOGETHER = {"opt": {"ffn_dim": 32, "word_embed_proj_dim": 16}, "bloom": {}, "mpt": {}, "mamba": {}}


def causal_model(model_type: str, settings: dict[str, Any]) -> Any:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
    config = AutoConfig.for_model(model_type, **{**shape, **settings})
    torch.manual_seed(0)
    return new_model(config)


@pytest.mark.parametrize("model_type", ALONE)
def test_models_that_mask_by_positions_keep_documents_apart(model_type: str) -> None:
    model = causal_model(model_type, ALONE[model_type]).train()
    check_attention_within_documents(model)
    assert model.training


@pytest.mark.parametrize("model_type", sorted({**ALONE, **TOGETHER}))
def test_causal_models_look_back_only(model_type: str) -> None:
    check_looks_back_only(causal_model(model_type, {**ALONE, **TOGETHER}[model_type]))


@pytest.mark.parametrize("is_decoder", [False, True])
def test_an_encoder_looks_ahead_unless_it_is_made_a_decoder(is_decoder: bool) -> None:
    model = causal_model("bert", {"intermediate_size": 32, "is_decoder": is_decoder})
    if is_decoder:
        check_looks_back_only(model)
        return
    with pytest.raises(InputError, match=r"a 'bert' model of this config looks ahead: .* set is_decoder: true"):
        check_looks_back_only(model)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_an_encoder_of_small_fresh_weights_is_found_out_too(model_type: str) -> None:
    settings = {"hidden_size": 64, "intermediate_size": 256, "vocab_size": 1000, "initializer_range": 0.006}
    with pytest.raises(InputError, match="looks ahead"):
        check_looks_back_only(causal_model(model_type, settings))


def test_a_model_without_a_limit_of_positions_is_tried_too() -> None:
    model = causal_model("xlnet", {"d_inner": 32, "d_head": 8})
    assert model.config.max_position_embeddings == -1
    with pytest.raises(InputError, match="looks ahead"):
        check_looks_back_only(model)


def test_a_model_that_fails_at_a_few_tokens_is_refused_by_what_it_says() -> None:
    model = causal_model("gpt2", {})
    model.forward = None
    with pytest.raises(InputError, match="a 'gpt2' model of this config can't be tried on a few tokens: TypeError"):
        check_looks_back_only(model)


def test_frozen_embeddings_are_no_fault_and_weights_that_are_no_numbers_are() -> None:
    model = causal_model("gpt2", {})
    model.get_input_embeddings().weight.requires_grad_(False)
    check_looks_back_only(model)
    assert not model.get_input_embeddings()._forward_hooks
    torch.nn.init.constant_(model.transformer.ln_f.weight, float("nan"))
    with pytest.raises(InputError, match="a 'gpt2' model with these weights gives logits that are no numbers"):
        check_looks_back_only(model)


@pytest.mark.parametrize("positions", [1, 2, 4, 6])
def test_short_contexts_are_tried_as_they_are(positions: int) -> None:
    model = causal_model("gpt2", {"n_positions": positions})
    check_looks_back_only(model)
    check_attention_within_documents(model)


@pytest.mark.parametrize("model_type", TOGETHER)
def test_models_that_ignore_positions_are_found_by_trying(model_type: str) -> None:
    with pytest.raises(InputError, match=f"does not hold for a '{model_type}' model: a document's logits change by"):
        check_attention_within_documents(causal_model(model_type, TOGETHER[model_type]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_key_value_heads is 3 and does not divide the 4"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"hidden_act": "siluu"}, "can't make a 'llama' model of this config: KeyError: 'siluu'"),
        ({}, "with attention_kernel 'flash_attention_2': ImportError"),
    ],
)
def test_configs_that_make_no_model_are_refused(settings: dict[str, Any], message: str) -> None:
    config = model_config({**SMALL, **settings}, tokenizer=tokenizer(64))
    with pytest.raises(InputError, match=message):
        check_buildable(config, attention_kernel=None if settings else "flash_attention_2")
