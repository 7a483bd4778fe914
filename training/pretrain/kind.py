"""The pretrain stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.pretrain.config import PretrainConfig
from training.pretrain.report_figures import PRETRAIN_FIGURES

_EXAMPLE = """\
stages:
  pretrain:
    tokens: mixture
    tokenizer: tokenizer
    model: 125m
    sequence_length: 2048
    global_batch_size: 256        # half a million tokens a step
    train_tokens: 2500000000
    lr: 6e-4
    min_lr: 6e-5
    warmup_steps: 500
    precision: bf16
    zero_stage: 1
    micro_batch_size: 16
    eval_every_steps: 250
    keep_best: 1
    checkpoint_every_steps: 500
    workers: {num_workers: 8, cpus: 4, gpus: 1}
"""

PRETRAIN = StageKind(
    config=PretrainConfig,
    function="training.pretrain.stage:run",
    runs_on_workers=True,
    import_ahead="training.engine.import_ahead:import_for_training",
    summary="train a base model",
    makes=(
        "A Hugging Face model directory (safetensors, config, tokenizer), with `metrics.jsonl` and TensorBoard's files."
    ),
    example=_EXAMPLE,
    figures=PRETRAIN_FIGURES,
    model="policy",
    runs_without_ray=True,
)
