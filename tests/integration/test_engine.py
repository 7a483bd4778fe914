"""The DeepSpeed engine itself: what it starts from, and what it makes of gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from tests.integration.single_rank import one_rank
from training.engine.deepspeed_config import deepspeed_config
from training.engine.deepspeed_engine import begin_pass, build_engine, gradient_norm, leaf_classes
from training.models import new_model
from training.token_losses import token_losses_sum

assert one_rank  # the fixture of that name, for this module too


@pytest.fixture(autouse=True)
def _local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as `run_in_process` sets it


STAGES = pytest.mark.parametrize("zero_stage", range(4))
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def engine_of(
    model: torch.nn.Module, *, zero_stage: int, precision: Any, num_passes: int = 1, offload: Any = "none"
) -> Any:
    settings = deepspeed_config(
        zero_stage=zero_stage,
        precision=precision,
        micro_batch_size=1,
        grad_accumulation_steps=num_passes,
        world_size=1,
        gradient_clipping=1.0,
        lr=1e-2,
        weight_decay=0.1,
        accumulate_in_fp32=True,
        offload=offload,
    )
    return build_engine(model, config=settings)


def linear(value: float) -> torch.nn.Module:
    model = torch.nn.Linear(8, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model


@STAGES
@PRECISIONS
def test_a_new_engine_has_taken_no_step(zero_stage: int, precision: str) -> None:
    """Its first step on a gradient of ones is AdamW's: decay, then a whole learning rate down."""
    engine = engine_of(linear(1.0), zero_stage=zero_stage, precision=precision)
    inputs = torch.ones(1, 8, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    begin_pass(engine, last=True)
    engine.backward(engine(inputs).float().sum())
    engine.step()
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    masters = [p for group in inner.param_groups for p in group["params"] if p.numel()]
    for master in masters:
        assert master.dtype == torch.float32
        torch.testing.assert_close(master.detach().flatten()[:8], torch.full((8,), 1 - 1e-2 * 0.1 - 1e-2))
    assert {float(state["step"]) for state in inner.state.values() if "step" in state} == {1.0}


@STAGES
@PRECISIONS
def test_gradients_of_many_passes_are_added_up_without_loss(zero_stage: int, precision: str) -> None:
    """1,024 gradients of 1/1024: in bf16 the sum would stand still at 1/4. Twice, so that nothing is left over."""
    num_passes = 1024
    engine = engine_of(linear(0.0), zero_stage=zero_stage, precision=precision, num_passes=num_passes)
    inputs = torch.ones(1, 8, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    for _ in range(2):
        for number in range(num_passes):
            begin_pass(engine, last=number == num_passes - 1)
            engine.backward(engine(inputs).float().sum())  # the engine divides by the number of passes
            engine.step()
        assert gradient_norm(engine) == pytest.approx(8**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("zero_stage", "offload"), [*((z, "none") for z in range(4)), *((z, "optimizer") for z in (1, 2, 3))]
)
@PRECISIONS
def test_a_bad_step_leaves_nothing_behind(zero_stage: int, precision: str, offload: str) -> None:
    """Neither in the weights nor in the gradients of the steps after it, whichever of its passes was bad."""
    engine = engine_of(linear(0.5), zero_stage=zero_stage, precision=precision, num_passes=2, offload=offload)
    inputs = torch.ones(1, 8, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    norms = []
    for bad in ((False, False), (True, False), (False, True), (False, False)):
        for number, is_bad in enumerate(bad):
            begin_pass(engine, last=number == 1)
            engine.backward(engine(inputs).float().sum() * (math.nan if is_bad else 1.0))
            engine.step()
        norms.append(gradient_norm(engine))
    assert norms[0] == norms[3] == pytest.approx(8**0.5, rel=0.01)
    assert not math.isfinite(norms[1])
    assert not math.isfinite(norms[2])


def test_zero_3_gathers_layers_whole_only_where_it_may() -> None:
    def llama(**settings: Any) -> Any:
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64, **settings}
        return new_model(AutoConfig.for_model("llama", intermediate_size=32, **shape))

    assert [kind.__name__ for kind in leaf_classes(llama())] == ["LlamaDecoderLayer"]
    tied, twice, short = llama(), llama(), llama()
    tied.lm_head.weight = tied.model.layers[0].mlp.gate_proj.weight
    twice.model.layers[1] = twice.model.layers[0]
    short.config.num_hidden_layers = 4  # as if each ran twice
    assert [leaf_classes(model) for model in (tied, twice, short, torch.nn.Linear(2, 2))] == [[]] * 4


def test_an_encoder_made_a_decoder_trains_alike_at_zero_3() -> None:
    found = []
    for zero_stage in (0, 3):
        config = AutoConfig.for_model(
            "bert", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=64,
            is_decoder=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        torch.manual_seed(0)
        engine = engine_of(new_model(config), zero_stage=zero_stage, precision="fp32")
        ids = torch.arange(12)[None]
        losses = []
        for _ in range(3):
            begin_pass(engine, last=True)
            loss = token_losses_sum(engine(input_ids=ids).logits[:, :-1], ids[:, 1:]) / 11
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
        found.append(losses)
    assert found[0] == pytest.approx(found[1], rel=1e-4)
