"""The evaluate stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.evaluate.config import EvaluateConfig

_EXAMPLE = """\
stages:
  evaluate:
    models: {base: pretrain, sft: sft, dpo: models/my-own-dpo}  # a directory is told by its slash
    tokens: tokenize
    conversations: conversations
    reward_model: reward_model
    preferences: preferences
    tasks:
      hhh: {kind: pairs, inputs: [data/hhh_alignment.jsonl], normalise_length: tokens}
      refusals: {kind: refusals, max_new_tokens: 64}
    num_prompts: 256
"""

EVALUATE = StageKind(
    config=EvaluateConfig,
    function="cluster.evaluate_stage:run",
    runs_on_workers=True,
    import_ahead="training.engine.import_ahead:import_for_training",
    summary="compare the models",
    makes=(
        "Figures of each model with their intervals, its differences from the baseline, and its answers; every item of "
        "every figure as Parquet (`measured.NAME...items.parquet`, `answers.NAME...answers.parquet`)."
    ),
    example=_EXAMPLE,
    runs_without_ray=True,
)
