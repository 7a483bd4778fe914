"""Going on from a model: new tokens, longer contexts, other tokenizers."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from cluster.contracts.errors import InputError
from training.models import ContextExtension, add_tokens, check_same_tokens, extend_context


def tiny(**changes: Any) -> LlamaConfig:
    settings = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    return LlamaConfig(**{**settings, **changes})


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_the_mean_of_the_old_and_leave_their_predictions_alone(tied: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny(tie_word_embeddings=tied))
    input_ids = torch.arange(40)[None]
    before = model(input_ids).logits
    add_tokens(model, 60)
    after = model(input_ids).logits
    assert after.shape[-1] == model.config.vocab_size == 60
    torch.testing.assert_close(after[..., :50], before)
    embeddings = model.get_input_embeddings().weight
    torch.testing.assert_close(embeddings[55], embeddings[:50].mean(dim=0))
    add_tokens(model, 30)  # a tokenizer smaller than the model's table changes nothing
    assert model.config.vocab_size == 60


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


class Vocabulary:
    def __init__(self, *tokens: str) -> None:
        self._vocab = {token: index for index, token in enumerate(tokens)}

    def get_vocab(self) -> dict[str, int]:
        return self._vocab


def test_tokenizer_may_add_tokens_but_not_move_them() -> None:
    check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "b", "<new>"))
    with pytest.raises(InputError, match="1 of its 2 tokens have other ids or none \\(such as 'b'\\)"):
        check_same_tokens(Vocabulary("a", "b"), Vocabulary("a", "c", "d"))
