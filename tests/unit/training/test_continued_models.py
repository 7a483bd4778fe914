"""Going on from a model: new tokens, longer contexts, other tokenizers."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from cluster.contracts.errors import InputError
from training.models import ContextExtension, add_tokens, check_same_tokens, extend_context


def tiny_settings(**changes: Any) -> dict[str, Any]:
    settings = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    return {**settings, **changes}


def tiny(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**tiny_settings(**changes))


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_the_mean_of_the_old_and_leave_their_predictions_alone(tied: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny(tie_word_embeddings=tied))
    input_ids = torch.arange(40)[None]
    before = model(input_ids).logits
    add_tokens(model, old_tokens=50, num_tokens=60)
    after = model(input_ids).logits
    assert after.shape[-1] == model.config.vocab_size == 60
    torch.testing.assert_close(after[..., :50], before)
    embeddings = model.get_input_embeddings().weight
    torch.testing.assert_close(embeddings[55], embeddings[:50].mean(dim=0))


@pytest.mark.parametrize("num_tokens", [46, 60])
def test_new_tokens_get_the_mean_of_trained_rows_where_the_table_is_padded(num_tokens: int) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phi", **tiny_settings()))  # its head has a bias
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    with torch.no_grad():
        model.lm_head.bias[:40] = torch.arange(40.0)
        for table in tables:
            table[40:] = 1e6  # padding, never trained
    means = [table[:40].mean(dim=0) for table in tables]
    add_tokens(model, old_tokens=40, num_tokens=num_tokens)
    assert model.config.vocab_size == max(50, num_tokens)
    for table, mean in zip((model.get_input_embeddings(), model.get_output_embeddings()), means, strict=True):
        torch.testing.assert_close(table.weight[40:num_tokens], mean.expand(num_tokens - 40, -1))
    torch.testing.assert_close(model.lm_head.bias[40:num_tokens], torch.full((num_tokens - 40,), 19.5))


def test_tokenizer_without_new_tokens_changes_nothing() -> None:
    model = AutoModelForCausalLM.from_config(tiny())
    before = model.get_input_embeddings().weight.clone()
    add_tokens(model, old_tokens=40, num_tokens=40)
    assert model.config.vocab_size == 50
    assert torch.equal(model.get_input_embeddings().weight, before)


@pytest.mark.parametrize("method", ["yarn", "linear", "theta"])
def test_extended_context_keeps_the_weights_and_reaches_further(method: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny())
    theta = 80_000.0 if method == "theta" else None
    config = extend_context(
        model.config,
        ContextExtension(method=method, max_position_embeddings=256, rope_theta=theta),  # type: ignore[arg-type]
    )
    extended = AutoModelForCausalLM.from_config(config)
    extended.load_state_dict(model.state_dict())
    assert extended.config.max_position_embeddings == 256
    assert torch.isfinite(extended(torch.arange(200)[None] % 50).logits).all()
    rotary, original = extended.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq
    # The slowest rotation is slowed down by the factor, or by more where the base itself was raised.
    assert rotary[-1] <= original[-1] / 4 * 1.001 if method != "theta" else rotary[-1] < original[-1]
    assert AutoConfig.for_model(**config.to_dict()).rope_parameters == config.rope_parameters


def test_context_that_is_long_enough_or_cannot_grow_is_refused() -> None:
    longer = ContextExtension(max_position_embeddings=256)
    with pytest.raises(InputError, match="is 64, and the model has 64 positions already"):
        extend_context(tiny(), ContextExtension(max_position_embeddings=64))
    with pytest.raises(InputError, match="a 'gpt2' model has no rotary positions"):
        extend_context(AutoConfig.for_model("gpt2"), longer)
    with pytest.raises(InputError, match=r"scaled already \(yarn\)"):
        extend_context(extend_context(tiny(), longer), ContextExtension(max_position_embeddings=512))
    with pytest.raises(InputError, match=r"each type of layer \(sliding_attention, full_attention\).*config\.json"):
        extend_context(AutoConfig.for_model("gemma3_text", max_position_embeddings=64), longer)
    for method in ("yarn", "linear"):
        with pytest.raises(InputError, match=f"a 'phi3' model does not take '{method}' scaling.*method theta"):
            extend_context(
                AutoConfig.for_model("phi3", max_position_embeddings=64),
                ContextExtension(method=method, max_position_embeddings=256),  # type: ignore[arg-type]
            )


@pytest.mark.parametrize("method", ["yarn", "linear", "theta"])
def test_extended_context_rotates_the_same_part_of_each_head(method: str) -> None:
    parameters = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}  # GPT-NeoX's own: 0.25
    config = AutoConfig.for_model("gpt_neox", **tiny_settings(rope_parameters=parameters))
    extension = ContextExtension(method=method, max_position_embeddings=256, rope_theta=20_000.0)  # type: ignore[arg-type]
    extended = extend_context(config, extension)
    assert config.rope_parameters == parameters
    rotary, original = (AutoModelForCausalLM.from_config(it).gpt_neox.rotary_emb for it in (extended, config))
    assert rotary.inv_freq.shape == original.inv_freq.shape == (4,)  # of heads of 16, half rotated, in pairs


def test_theta_without_a_higher_base_is_refused() -> None:
    with pytest.raises(ValidationError, match="give it as rope_theta"):
        ContextExtension(method="theta", max_position_embeddings=256)
    for theta in (5_000.0, 10_000.0):
        with pytest.raises(InputError, match=f"rope_theta is {theta:g}, and the model's is 10000 already"):
            extend_context(tiny(), ContextExtension(method="theta", max_position_embeddings=256, rope_theta=theta))


class Vocabulary:
    def __init__(self, *tokens: str) -> None:
        self._vocab = {token: index for index, token in enumerate(tokens)}

    def get_vocab(self) -> dict[str, int]:
        return self._vocab


def test_tokenizer_may_add_tokens_but_not_move_them() -> None:
    check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "b", "<new>"))
    with pytest.raises(InputError, match="1 of its 2 tokens have other ids or none \\(such as 'b'\\)"):
        check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "c", "d"))
