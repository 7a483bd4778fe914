"""Counts the floating-point operations of a training step, and finds a device's peak; their quotient is the MFU.

Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B) is the number of operations that the model's
mathematics needs, whatever was recomputed, over what the devices could have done in the same time. Per token, forward
and backward, these are

    6 * (weights that multiply, the output head among them) + 12 * layers * heads * head size * sequence length

The second term is attention's. It is not halved for causal masks, as it is not in PaLM, nanoGPT and torchtitan, so that
figures compare.
"""

from __future__ import annotations

import re
import time
from typing import Any

import torch

from cluster.contracts.errors import InputError

# Dense bf16 peaks in FLOP/s, without sparsity, as their makers state them, by what `_model_name` gives.
BF16_PEAKS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100 PCIE": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A100 PCIE": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}
# What says nothing of a device's speed. What is left must be in the table to the word: an "RTX 4090 Laptop GPU", a part
# of an "A100 MIG" or an "H200 NVL" are other devices than their first words alone.
_PLAIN_WORDS = re.compile(r"NVIDIA|AMD|GEFORCE|INSTINCT|TESLA|SXM\d?|OAM|HBM\w*|\d+GB")
_MATRIX_SIZE = 2048  # of the product that measures a peak
_MEASURING_S = 0.2


def training_flops_per_token(model: torch.nn.Module, sequence_length: int) -> float:
    """Forward and backward operations for one token of a sequence of `sequence_length`.

    Multiplying weights are those of linear layers, of convolutions written as such (GPT-2's) and of routers, counted
    where they are used: embeddings look up and don't multiply, a tied output head does. Of a mixture of experts those
    of the k experts count that a token goes to. Under ZeRO-3, call it before partitioning.
    """
    weights = 0.0
    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, torch.nn.Linear) or kind == "Conv1D":
            weights += module.weight.numel()  # type: ignore[union-attr, operator]
        elif kind.endswith("Router"):
            weights += sum(weight.numel() for weight in module.parameters(recurse=False) if weight.dim() == 2)
        elif kind.endswith("Experts"):  # one tensor has the same matrix of all of them
            stacks = [weight for weight in module.parameters(recurse=False) if weight.dim() == 3]
            weights += sum(experts_per_token(model.config) * stack[0].numel() for stack in stacks)
    return 6.0 * weights + attention_flops_per_token(model.config, sequence_length)


def experts_per_token(config: Any) -> int:
    """How many experts of a layer a token goes to; shared ones, which are linear layers, apart."""
    for name in ("num_experts_per_tok", "moe_top_k", "moe_topk", "top_k_experts"):
        count = getattr(config, name, None)
        if count is not None:
            return int(count)
    raise InputError(
        f"a {config.model_type!r} model has experts, and its config says nowhere to how many of them a token goes, as "
        "num_experts_per_tok"
    )


def attention_flops_per_token(config: Any, sequence_length: int) -> float:
    """Forward and backward operations of attention's two products; 0 for models without attention heads."""
    layers = getattr(config, "num_hidden_layers", 0)
    heads = getattr(config, "num_attention_heads", 0)
    hidden = getattr(config, "hidden_size", 0)
    head_size = getattr(config, "head_dim", None) or (hidden // heads if heads else 0)
    return 12.0 * layers * heads * head_size * sequence_length


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s that one process of this device could do, and where the figure is from: "table" or "measured".

    The table has bf16 peaks. Elsewhere (CPUs, fp32, other devices) the best of several square products is the peak, on
    the threads this process has.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        peak = BF16_PEAKS.get(_model_name(torch.cuda.get_device_name(device)))
        if peak is not None:
            return peak, "table"
    return measured_peak_flops(device, dtype), "measured"


def _model_name(device_name: str) -> str:
    """What is left of "NVIDIA A100-SXM4-80GB" and the like without maker, socket and memory: "A100"."""
    words = re.split(r"[^A-Z0-9.]+", device_name.upper())
    return " ".join(word for word in words if word and not _PLAIN_WORDS.fullmatch(word))


def measured_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The best FLOP/s seen in products of square matrices over a fifth of a second."""
    size = _MATRIX_SIZE * 4 if device.type == "cuda" else _MATRIX_SIZE // 2
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.mm(left, right)  # warm-up, and the output's memory
    shortest, until = float("inf"), time.perf_counter() + _MEASURING_S
    while time.perf_counter() < until:
        _finish(device)
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        _finish(device)
        shortest = min(shortest, time.perf_counter() - started)
    return 2.0 * size**3 / shortest


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
