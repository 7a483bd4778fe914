"""The `trl:` and `deepspeed:` blocks: what is ours is refused by name, and the rest by the libraries' own classes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trl
from pydantic import ValidationError

from cluster.contracts.errors import InputError
from training.post_training.config import DpoConfig, RewardModelConfig, SftConfig
from training.post_training.trl_arguments import check_blocks
from training.post_training.trl_block import _OWN, check_trl_block

SFT: dict[str, Any] = {"model": "base", "conversations": "talks"}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"learning_rate": 1e-4}, r"trl.learning_rate: is not taken here; set lr"),
        ({"weight_decay": 0.1}, r"trl.weight_decay: is a setting of the stage itself; set weight_decay there"),
        ({"per_device_train_batch_size": 2}, r"set micro_batch_size"),
        ({"save_steps": 5}, r"set checkpoint_every_steps"),
        ({"push_to_hub": True}, r"nothing is sent anywhere"),
        ({"bf16": True}, r"set precision"),
        ({"max_length": 5}, r"a setting of the stage itself"),
    ],
)
def test_a_setting_that_is_the_stage_s_own_is_refused_by_its_name(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SftConfig(**SFT, trl=block)


def test_all_of_them_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        DpoConfig(model="sft", preferences="pairs", trl={"beta": 0.2, "max_steps": 4, "use_weighting": True})
    assert "trl.beta" in str(refused.value)
    assert "trl.max_steps" in str(refused.value)
    assert "trl.use_weighting" not in str(refused.value)


def test_every_name_that_is_refused_exists() -> None:
    classes = (trl.SFTConfig, trl.RewardConfig, trl.DPOConfig, trl.KTOConfig)
    names = {field.name for known in classes for field in dataclasses.fields(known)}
    for own in _OWN:
        assert own in names or (own.endswith("_") and any(name.startswith(own) for name in names)), own


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"neftune_noise_alfa": 5.0}, "is no setting of TRL's SFTConfig; did you mean neftune_noise_alpha?"),
        ({"loss_type": "dft", "packing_strategy": "best", "optim": "adam"}, "trl.optim: 'adam' is refused"),
        ({"pad_to_multiple_of": "many"}, "refused by TRL's SFTConfig: invalid literal"),
    ],
)
def test_trl_s_own_class_judges_the_rest(block: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_trl_block(block, "SFTConfig")
    assert message in str(refused.value)


def test_blocks_that_are_taken_and_one_that_is_not() -> None:
    check_blocks(SftConfig(**SFT))
    check_blocks(SftConfig(**SFT, trl={"neftune_noise_alpha": 5.0, "loss_type": "dft"}))
    with pytest.raises(InputError, match=r"trl.packing is no setting of TRL's RewardConfig"):
        check_blocks(RewardModelConfig(model="sft", preferences="pairs", trl={"packing": True}))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"zero_optimisation": {}}, "did you mean zero_optimization"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3, but the stage's own fields make it 2"),
        ({"scheduler": {"type": "WarmupLR"}}, "deepspeed.scheduler is"),
    ],
)
def test_deepspeed_s_own_class_judges_its_block(block: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_blocks(SftConfig(**SFT, deepspeed=block))
    check_blocks(SftConfig(**SFT, deepspeed={"zero_optimization": {"overlap_comm": False}}))
