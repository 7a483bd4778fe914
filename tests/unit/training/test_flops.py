"""FLOPs against torch's own counter, which counts every product as it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from training.flops import attention_flops_per_token, measured_peak_flops, peak_flops, training_flops_per_token

SHAPES = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 96, "tie_word_embeddings": True},
    "gpt2": {"n_inner": 96},
}


@pytest.mark.parametrize("model_type", SHAPES)
def test_formula_equals_what_a_forward_and_backward_pass_multiplies(model_type: str) -> None:
    length, names = 48, {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    if model_type == "gpt2":
        names = {"n_embd": 64, "n_layer": 3, "n_head": 4}
    config = AutoConfig.for_model(model_type, vocab_size=200, **names, **SHAPES[model_type])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    input_ids = torch.arange(2 * length).reshape(2, length) % 200
    with FlopCounterMode(display=False) as counter:
        model(input_ids=input_ids).logits.sum().backward()
    # The first layer's input needs no gradient only where embeddings are frozen, so backward is twice forward.
    assert training_flops_per_token(model, length) * 2 * length == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_attention_grows_with_the_sequence() -> None:
    config = AutoConfig.for_model("llama", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=32)
    assert attention_flops_per_token(config, 100) == 12 * 2 * 4 * 32 * 100


def test_peak_of_a_cpu_is_measured() -> None:
    found, origin = peak_flops(torch.device("cpu"), torch.float32)
    assert origin == "measured"
    assert found == pytest.approx(measured_peak_flops(torch.device("cpu"), torch.float32), rel=0.7)
    assert found > 1e9
