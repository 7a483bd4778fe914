"""DeepSpeed's settings: what the fields say, and a passthrough that may add but not contradict."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cluster.contracts.errors import InputError, StageFailed
from training.engine.deepspeed_block import check_passthrough
from training.engine.deepspeed_config import deepspeed_config
from training.engine.deepspeed_engine import _accumulate_in_fp32, assert_engine, weight_decay_groups


def config(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "zero_stage": 1,
        "precision": "fp32",
        "micro_batch_size": 4,
        "grad_accumulation_steps": 2,
        "world_size": 3,
        "gradient_clipping": 1.0,
        "lr": 1e-3,
    }
    return deepspeed_config(**{**settings, **changes})


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stage_precision_and_batch_are_what_was_asked_for(zero_stage: int, precision: Any) -> None:
    made = config(zero_stage=zero_stage, precision=precision)
    assert made["zero_optimization"]["stage"] == zero_stage
    assert made["bf16"]["enabled"] == (precision == "bf16")
    assert made["train_batch_size"] == 24
    assert made["optimizer"]["params"]["torch_adam"] is True


def test_no_clipping_is_zero_in_deepspeeds_words() -> None:
    assert config(gradient_clipping=None)["gradient_clipping"] == 0.0


def test_passthrough_adds_at_any_depth() -> None:
    made = config(extra={"zero_optimization": {"offload_optimizer": {"device": "cpu"}}, "prescale_gradients": True})
    assert made["zero_optimization"]["stage"] == 1
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert made["prescale_gradients"] is True


def test_passthrough_may_repeat_and_may_tune_what_no_field_names() -> None:
    made = config(extra={"zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}})
    assert made["zero_optimization"]["reduce_bucket_size"] == 1000


@pytest.mark.parametrize(
    ("extra", "path"),
    [
        ({"train_batch_size": 7}, r"deepspeed\.train_batch_size is 7"),
        ({"zero_optimization": {"stage": 2}}, r"deepspeed\.zero_optimization\.stage is 2"),
        ({"optimizer": {"params": {"lr": 1.0}}}, r"deepspeed\.optimizer\.params\.lr is 1\.0"),
        ({"bf16": True}, r"deepspeed\.bf16 is True"),
    ],
)
def test_contradictions_are_refused_by_their_path(extra: dict[str, Any], path: str) -> None:
    with pytest.raises(InputError, match=path):
        config(extra=extra)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"scheduler": 1, "amp": 2}, r"deepspeed\.scheduler is 1, .*; deepspeed\.amp is 2, "),
        ({"scheduler": {"type": "WarmupLR"}}, r"deepspeed\.scheduler is .* the stage sets the learning rate"),
        ({"amp": {"enabled": True}}, r"deepspeed\.amp is .* precision says"),
        ({"zero_optimization": {"compute_grad_norm": False}}, r"compute_grad_norm is false"),
        ({"prescale_gradient": True}, r"prescale_gradient is no setting of .* did you mean prescale_gradients\?"),
        (
            {"elasticity": {"enabled": True}},
            r"deepspeed\.elasticity is no setting of .* it knows activation_checkpointing",
        ),
        ({"optimizer": {"params": {"wd": 0.1}}}, r"optimizer\.params\.wd is no setting of AdamW; it takes adam_w_mode"),
        (
            {"optimizer": {"params": {"adam_w_mode": False}}},
            r"adam_w_mode is False, and the optimizer is torch's AdamW",
        ),
        ({"optimizer": {"params": {"torch_adam": False}}}, r"torch_adam is False, and the optimizer is torch's AdamW"),
        ({"optimizer": {"params": {"amsgrad": "maybe"}}}, r"amsgrad is 'maybe'; it must be true or false"),
        ({"optimizer": {"params": {"foreach": True}}}, r"foreach is true, and so is fused"),
        ({1: 2}, r"deepspeed: 1 is no name of a setting"),
        ({"zero_optimization": {1: 2}}, r"deepspeed: 1 is no name of a setting"),
        ({"checkpoint": "x"}, r"deepspeed: "),
        ({"data_types": "fp32"}, r"deepspeed"),
        ({"checkpoint": {"load_universal": True}}, r"deepspeed\.checkpoint\.load_universal is set"),
        ({"tensor_parallel": {"autotp_size": 2}}, r"deepspeed\.tensor_parallel is .* ZeRO alone"),
        ({"bf16": {"enabledd": 1}}, r"deepspeed\.bf16\.enabledd is 1"),
        ({"compile": {"enabled": True}}, r"deepspeed\.compile\.enabled is True"),
        (
            {"zero_optimization": {"no_such": 1, "overlap_comm": "maybe"}},
            r"(?s)zero_optimization\.overlap_comm is 'maybe'.*zero_optimization\.no_such is 1",
        ),
    ],
)
def test_what_no_worker_could_honour_is_refused(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_passthrough(extra, config(extra=extra))


def test_how_gradients_are_added_up_is_the_stages_own() -> None:
    extra = {"data_types": {"grad_accum_dtype": "fp32"}}
    config(zero_stage=2, precision="bf16", accumulate_in_fp32=True, extra=extra)
    with pytest.raises(InputError, match="grad_accum_dtype is 'fp32', and gradients are added up in fp32 as it is"):
        config(zero_stage=1, precision="bf16", accumulate_in_fp32=True, extra=extra)
    with pytest.raises(InputError, match="grad_accum_dtype is 'bf16', and gradients are added up in fp32 as it is"):
        config(precision="fp32", extra={"data_types": {"grad_accum_dtype": "bf16"}})
    with pytest.raises(InputError, match="grad_accum_dtype is 'fp32', and gradients are added up in bf16 in this"):
        config(zero_stage=2, precision="bf16", extra=extra)


def test_settings_that_deepspeed_reads_pass() -> None:
    extra = {
        "prescale_gradients": True,
        "activation_checkpointing": {"cpu_checkpointing": True},
        "flops_profiler": {"enabled": True},
        "comms_logger": {"enabled": True},
        "aio": {"block_size": 1 << 20},
        "zero_optimization": {"overlap_comm": True},
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10,
    }
    check_passthrough(extra, config(extra=extra))


def test_gradients_of_bf16_are_added_up_in_fp32_from_zero_2_on() -> None:
    found = [
        config(zero_stage=stage, precision="bf16", accumulate_in_fp32=True)["data_types"]["grad_accum_dtype"]
        for stage in range(4)
    ]
    assert found == ["bf16", "bf16", "fp32", "fp32"]  # below, `begin_pass` does it


def test_matrices_decay_and_vectors_do_not() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    decayed, kept = weight_decay_groups(model, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 4), (3, 4)]
    assert decayed["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in kept["params"]] == [(3,), (3,), (3,)]
    assert kept["weight_decay"] == 0.0


def test_a_model_without_deepspeed_is_not_taken_for_an_engine() -> None:
    with pytest.raises(StageFailed, match=r"engine is \{'class': 'Linear', 'zero_stage': None, 'world_size': 1\}"):
        assert_engine(torch.nn.Linear(2, 2), zero_stage=1, world_size=2)


@pytest.mark.parametrize("hits", [(1, 0, 0, 0), (0, 0, 1, 0), (1, 1, 0, 1), (0, 0, 0, 1), (1, 1, 1, 1), (1,), (0, 0)])
def test_sums_over_passes_count_each_gradient_once_whichever_passes_a_parameter_is_in(hits: tuple[int, ...]) -> None:
    """Two steps, so that nothing of the first is left in the second."""
    model = torch.nn.Linear(1, 1, bias=False)
    begun = False
    for _ in range(2):
        for number, hit in enumerate(hits):
            begun = _accumulate_in_fp32(model, last=number == len(hits) - 1, begun=begun)
            if hit:
                (model.weight * 1.0).sum().backward()
        assert not begun
        found = 0.0 if model.weight.grad is None else float(model.weight.grad)
        assert found == sum(hits)
        model.weight.grad = None
