import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from trl import DPOTrainer

from cluster.fingerprint import result_settings
from training.evaluate.config import EvaluateConfig
from training.post_training.config import DpoConfig, DpoLoss, RewardModelConfig, SftConfig

SFT: dict[str, Any] = {"model": "base", "conversations": "talks"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"global_batch_size": 9, "workers": {"num_workers": 2}},
            "is 9 and can't be dealt out to workers.num_workers = 2; .* that it can: 1, 3, 9",
        ),
        (
            {"global_batch_size": 12, "micro_batch_size": 8},
            "micro_batch_size: is 8 and doesn't divide the 12 rows that each of 1 workers has",
        ),
        ({"precision": "bf16"}, "bf16 needs workers.gpus"),
        ({"warmup_fraction": 1.0}, "less than 1"),
        ({"zero_stage": 4}, "less than or equal to 3"),
        ({"keep_best": True}, "keep_best: needs eval_every_steps"),
        ({"lora": {"target_modules": ["q_proj", "lm_head"]}}, "put lm_head into modules_to_save"),
        ({"learning_rate": 1e-4}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_honoured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SftConfig(**SFT, **changes)


def test_bf16_on_gpus_is_taken() -> None:
    assert SftConfig(**SFT, precision="bf16", workers={"gpus": 1}).precision == "bf16"


def test_resources_and_micro_batches_stay_out_of_the_fingerprint() -> None:
    for config in (SftConfig, DpoConfig, RewardModelConfig):
        assert config.fields_not_in_fingerprint() == {
            "micro_batch_size",
            "gradient_checkpointing",
            "divergence",
            "trackers",
            "checkpoint_every_steps",
            "workers",
        }


def test_inputs_are_named_for_the_graph() -> None:
    assert set(DpoConfig.input_fields()) == {"model", "preferences"}
    assert set(EvaluateConfig.input_fields()) == {
        "models", "tokens", "conversations", "reward_model", "judge", "preferences"
    }  # fmt: skip
    assert set(SftConfig.input_fields()) == {"model", "conversations"}


def test_an_evaluation_of_no_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        EvaluateConfig(models={}, tokens="tokens", conversations="talks")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 0.1}, "is 0.1, and TRL's sigmoid does not use it; take loss_type: robust"),
        ({"loss_type": "exo_pair"}, "must be above 0 for exo_pair"),
        ({"loss_type": ["ipo", "ipo"]}, "names a loss twice"),
        ({"loss_type": ["ipo", "sft"], "loss_weights": [1.0]}, "has 1 weights for 2 losses"),
        ({"loss_type": ["ipo", "sft"], "sft_loss_weight": 0.1}, "loss_type names sft as well"),
        ({"loss_type": "sigmod"}, "Input should be 'sigmoid'"),
    ],
)
def test_dpo_losses_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DpoConfig(model="sft", preferences="pairs", **changes)


def test_dpo_losses_are_weighed() -> None:
    config = DpoConfig(model="sft", preferences="pairs", sft_loss_weight=0.2)
    assert config.losses() == {"sigmoid": 1.0, "sft": 0.2}
    mixed = DpoConfig(model="sft", preferences="pairs", loss_type=["ipo", "bco_pair"], loss_weights=[0.5, 2.0])
    assert mixed.losses() == {"ipo": 0.5, "bco_pair": 2.0}


def test_the_losses_are_those_that_trl_knows() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    known = set(re.findall(r'loss_type == "(\w+)"', source))
    assert set(get_args(DpoLoss)) == known


def test_a_chat_template_counts_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    for name, text in (("a.jinja", "one"), ("b.jinja", "one"), ("c.jinja", "two")):
        (tmp_path / name).write_text(text)
    a, b, c = (
        result_settings(SftConfig(**SFT, chat_template=str(tmp_path / name)))
        for name in ("a.jinja", "b.jinja", "c.jinja")
    )
    assert a == b != c
    with pytest.raises(ValidationError, match="at most 1 item"):
        SftConfig(**SFT, chat_template=["a.jinja", "b.jinja"])
