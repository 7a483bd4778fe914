"""Makes DeepSpeed's settings, as the JSON config that it reads, for our own loops and for the TRL stages.

Importing this loads no framework, since the driver checks settings by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cluster.contracts.errors import InputError

Precision = Literal["fp32", "bf16"]
Offload = Literal["none", "optimizer", "optimizer_and_weights"]
# Elements per communication bucket. DeepSpeed's own 5e8 reserves 2 GB of buffers per rank.
BUCKET_ELEMENTS = 50_000_000


def deepspeed_config(
    *,
    zero_stage: int,
    precision: Precision,
    micro_batch_size: int,
    grad_accumulation_steps: int,
    world_size: int,
    gradient_clipping: float | None,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    offload: Offload = "none",
    accumulate_in_fp32: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """DeepSpeed's settings for AdamW training, as its JSON config.

    `micro_batch_size` is of one rank's forward pass, in sequences. `offload` keeps the optimizer's state (ZeRO 1 to
    3), and the weights too (ZeRO-3), in host memory. `accumulate_in_fp32` is for loops that call `engine.begin_pass`:
    gradients of several passes in bf16 are added up in fp32, since a sum in bf16 loses small ones. `extra` is the
    spec's `deepspeed:` block: whatever it adds is passed through; what contradicts a setting made here raises
    `InputError`.
    """
    ours: dict[str, Any] = {
        "train_batch_size": micro_batch_size * grad_accumulation_steps * world_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": grad_accumulation_steps,
        "gradient_clipping": gradient_clipping if gradient_clipping is not None else 0.0,
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
        },
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": False},
        "optimizer": {
            "type": "AdamW",
            # torch's own AdamW: DeepSpeed's needs a compiler, on CPU and on GPU.
            "params": {
                "lr": lr,
                "betas": list(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "torch_adam": True,
                "fused": True,
            },
        },
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }
    if precision == "bf16":
        # Below stage 2 DeepSpeed knows fp32 in another optimizer only, or not at all: `begin_pass` sees to it.
        ours["data_types"] = {"grad_accum_dtype": "fp32" if accumulate_in_fp32 and zero_stage >= 2 else "bf16"}
    if offload != "none":
        ours["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        ours["zero_force_ds_cpu_optimizer"] = False  # which would need a compiler; torch's fused AdamW runs on CPUs too
    if offload == "optimizer_and_weights":
        ours["zero_optimization"]["offload_param"] = {"device": "cpu", "pin_memory": True}
    data_types = (extra or {}).get("data_types")
    sums = data_types.get("grad_accum_dtype") if isinstance(data_types, Mapping) else None
    if sums not in (None, ours.get("data_types", {}).get("grad_accum_dtype", "fp32")):
        what = "in fp32 as it is" if accumulate_in_fp32 or precision == "fp32" else "in bf16 in this stage"
        raise InputError(
            f"deepspeed.data_types.grad_accum_dtype is {sums!r}, and gradients are added up {what}; leave it out"
        )
    merged = _merge(ours, extra or {}, "deepspeed")
    if merged["bf16"].get("check_grad_overflow") is False:
        raise InputError(
            "deepspeed.bf16.check_grad_overflow is false: gradients of nan would be written into the weights"
        )
    return merged


# The settings made above that the spec's own fields do not name, so a `deepspeed:` block may replace them.
_REPLACEABLE = frozenset(
    {
        "deepspeed.zero_optimization.reduce_bucket_size",
        "deepspeed.zero_optimization.allgather_bucket_size",
        "deepspeed.optimizer.params.torch_adam",
        "deepspeed.optimizer.params.fused",
        "deepspeed.steps_per_print",
        "deepspeed.wall_clock_breakdown",
    }
)


def _merge(ours: dict[str, Any], extra: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in extra.items():
        here = f"{path}.{key}"
        if key not in ours or here in _REPLACEABLE:
            merged[key] = value
        elif isinstance(ours[key], dict) and isinstance(value, Mapping):
            merged[key] = _merge(ours[key], value, here)
        elif ours[key] != value:
            raise InputError(
                f"{here} is {value!r}, but the stage's own fields make it {ours[key]!r}; set it there "
                f"(zero_stage, precision, global_batch_size, micro_batch_size, lr, ...) and leave it out here"
            )
    return merged
