"""Floating-point operations of a training step, a device's peak, and their quotient: the MFU.

Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B): the operations that the model's mathematics
needs, whatever was recomputed, over what the devices could have done in that time. Per token, forward and backward:

    6 * (weights that multiply, the output head among them) + 12 * layers * heads * head size * sequence length

The second term is attention's, not halved for causal masks, as in PaLM, nanoGPT and torchtitan, so that figures
compare.
"""

from __future__ import annotations

import time
from typing import Any

import torch

# Dense bf16 peaks in FLOP/s, as their makers state them without sparsity. The first name found in the device's counts.
BF16_PEAKS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}
_MATRIX_SIZE = 2048  # of the product that measures a peak
_MEASURING_S = 0.2


def training_flops_per_token(model: torch.nn.Module, sequence_length: int) -> float:
    """Forward and backward operations for one token of a sequence of `sequence_length`.

    Multiplying weights are those of linear layers and of convolutions written as such (GPT-2's), counted where they are
    used: embeddings look up and don't multiply, a tied output head does. Under ZeRO-3, call it before partitioning.
    """
    weights = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
            assert weight is not None
            weights += weight.numel()
    return 6.0 * weights + attention_flops_per_token(model.config, sequence_length)


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
        name = torch.cuda.get_device_name(device)
        for known, peak in BF16_PEAKS.items():
            if known in name:
                return peak, "table"
    return measured_peak_flops(device, dtype), "measured"


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
