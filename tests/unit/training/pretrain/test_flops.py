"""FLOPs against torch's own counter, which counts every product as it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from training.pretrain import flops
from training.pretrain.flops import attention_flops_per_token, measured_peak_flops, peak_flops, training_flops_per_token

SHAPES = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 96, "tie_word_embeddings": True},
    "gpt2": {"n_inner": 96},
    "mixtral": {"num_key_value_heads": 2, "intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_key_value_heads": 2, "moe_intermediate_size": 48, "num_experts": 16, "num_experts_per_tok": 4},
    "qwen2_moe": {  # with a shared expert
        "num_key_value_heads": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 96,
        "num_experts": 8, "num_experts_per_tok": 3,
    },
    "gpt_oss": {"num_key_value_heads": 2, "intermediate_size": 96, "num_local_experts": 8, "head_dim": 16},
}  # fmt: skip


@pytest.mark.parametrize("model_type", SHAPES)
def test_formula_equals_what_a_forward_and_backward_pass_multiplies(model_type: str) -> None:
    length, names = 48, {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    if model_type == "gpt2":
        names = {"n_embd": 64, "n_layer": 3, "n_head": 4}
    config = AutoConfig.for_model(model_type, vocab_size=200, **names, **SHAPES[model_type])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # products that torch's counter knows
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


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("A100-PCIE-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("AMD Instinct MI300X", 1307e12),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GB200", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
    ],
)
def test_device_has_a_peak_in_the_table_only_if_it_is_that_device(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(flops, "measured_peak_flops", lambda device, dtype: -1.0)
    expected = (-1.0, "measured") if peak is None else (peak, "table")
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == expected
