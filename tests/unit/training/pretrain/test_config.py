"""Settings of pre-training that contradict one another are refused with the fix."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from training.pretrain.config import PretrainConfig


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(**{"tokens": "t", "tokenizer": "k", "model": "tiny", "steps": 10, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "either model"),
        ({"initial_model": "base"}, "either model"),
        ({"model": "huge"}, "model: is no preset"),
        ({"steps": None}, "either steps or train_tokens"),
        ({"train_tokens": 5}, "either steps or train_tokens"),
        ({"warmup_steps": 11}, "warmup_steps: is over the 10 steps"),
        ({"min_lr": 1.0}, "min_lr: is over the peak lr"),
        ({"keep_every_steps": 150}, r"keep_every_steps: must be a multiple of checkpoint_every_steps \(100\)"),
        ({"keep_best": 1}, "keep_best: needs a held-out loss at each checkpoint"),
        ({"keep_best": 1, "eval_every_steps": 40}, "keep_best: needs a held-out loss at each checkpoint"),
        ({"offload": "optimizer", "zero_stage": 0}, "offload: needs zero_stage 1, 2 or 3"),
        ({"offload": "optimizer_and_weights"}, "offload: of weights needs zero_stage 3, and it is 1"),
        ({"context_extension": {"max_position_embeddings": 64}}, "context_extension: is for an initial_model"),
        (
            {"divergence": {"spike": "rewind", "rewind_steps": 150}},
            r"rewind_steps: is 150, and the 2 .* reach back 100",
        ),
        (
            {"attention": "within_documents", "attention_kernel": "flash_attention_2"},
            "attention_kernel: flash attention takes packed documents in another form",
        ),
        ({"attention_kernel": "flex_attention"}, "attention_kernel: flex_attention trains on GPUs only"),
        (
            {"batch_size_warmup": {"start": 64, "increment": 8, "tokens": 100}},
            "batch_size_warmup.start: must be below global_batch_size 64",
        ),
        (
            {
                "batch_size_warmup": {"start": 4, "increment": 2, "tokens": 9},
                "global_batch_size": 8,
                "workers": {"num_workers": 2},
            },
            "micro_batch_size: must be given beside batch_size_warmup",
        ),
        (
            {"batch_size_warmup": {"start": 6, "increment": 4, "tokens": 100}, "micro_batch_size": 4},
            "batch_size_warmup: has steps of 6 sequences, no multiple of workers x micro batch = 4",
        ),
        (
            {"global_batch_size": 24, "micro_batch_size": 8, "workers": {"num_workers": 2}},
            "micro_batch_size: is 8 and doesn't divide the 12 rows .* set it to one of 1, 2, 3, 4, 6, 12, or leave it",
        ),
        (
            {"global_batch_size": 9, "workers": {"num_workers": 2}},
            "is 9 and can't be dealt out to workers.num_workers = 2; .* that it can: 1, 3, 9",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_tokens_are_rounded_up_to_whole_steps() -> None:
    assert config(steps=None, train_tokens=1001, sequence_length=10, global_batch_size=10).num_steps == 11


def test_micro_batches_and_accumulation_make_up_the_global_batch() -> None:
    whole = config(global_batch_size=48, workers={"num_workers": 2})
    assert (whole.rank_micro_batch_size, whole.grad_accumulation_steps) == (24, 1)
    cut = config(global_batch_size=48, micro_batch_size=4, workers={"num_workers": 2})
    assert (cut.rank_micro_batch_size, cut.grad_accumulation_steps) == (4, 6)


def test_what_does_not_change_results_is_left_out_of_the_fingerprint() -> None:
    assert PretrainConfig.fields_not_in_fingerprint() == {
        "micro_batch_size",
        "data_cache",
        "data_cache_gib",
        "activation_checkpointing",
        "divergence",
        "offload",
        "compile",
        "attention_kernel",
        "peak_flops",
        "eval_every_steps",
        "eval_tokens",
        "trackers",
        "checkpoint_every_steps",
        "async_checkpoints",
        "keep_checkpoints",
        "keep_every_steps",
        "keep_best",
        "workers",
    }
    assert set(PretrainConfig.input_fields()) == {"tokens", "tokenizer", "initial_model"}


def test_importing_the_config_loads_no_framework_and_the_stage_neither_ray_nor_deepspeed() -> None:
    program = (
        "import sys, training.pretrain.config\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
        "import training.pretrain.loop\n"
        "assert not {'ray', 'deepspeed'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
