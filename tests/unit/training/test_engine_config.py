"""DeepSpeed's settings: what the fields say, and a passthrough that may add but not contradict."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cluster.contracts.errors import InputError, StageFailed
from training.engine import assert_engine, deepspeed_config, weight_decay_groups


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
