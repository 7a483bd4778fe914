"""The evaluate stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.evaluate.config import EvaluateConfig

_EXAMPLE = """\
stages:
  evaluate:
    tokens: tokenize
    conversations: conversations
    base: pretrain
    sft: sft
    dpo: models/my-own-dpo        # a directory, told by its slash
    reward_model: reward_model
    preferences: preferences
    num_prompts: 256
"""

EVALUATE = StageKind(
    config=EvaluateConfig,
    function="training.evaluate.stage:run",
    runs_on_workers=True,
    import_ahead="training.engine.import_ahead:import_for_training",
    summary="compare the models",
    makes="Figures of each model side by side, and its sampled answers with their rewards, for the report.",
    example=_EXAMPLE,
    runs_without_ray=True,
)
