"""Which kinds of stages there are, and where each one's config and function live.

Configs are imported at once (they are light: `plan` needs nothing else); functions only when a stage runs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from cluster.contracts.artifacts import StageFunction
from cluster.contracts.config import StageConfig


@dataclass(frozen=True)
class StageKind:
    """One kind of stage."""

    name: str
    config: str  # "module:Class"
    function: str  # "module:function"
    summary: str

    def config_class(self) -> type[StageConfig]:
        """The Pydantic model of the stage's settings."""
        loaded = _load(self.config)
        assert isinstance(loaded, type)
        assert issubclass(loaded, StageConfig)
        return loaded

    def load_function(self) -> StageFunction:
        """Import the stage's code."""
        function: StageFunction = _load(self.function)  # type: ignore[assignment]
        return function


STAGE_KINDS: dict[str, StageKind] = {
    kind.name: kind
    for kind in (
        StageKind(
            "clean", "dataprep.config:CleanConfig", "dataprep.clean.stage:run", "extract, identify language, filter"
        ),
        StageKind(
            "quality_classifier",
            "dataprep.config:QualityClassifierConfig",
            "dataprep.quality_classifier.stage:run",
            "train a fastText classifier of good and bad documents",
        ),
        StageKind(
            "repeated_lines",
            "dataprep.config:RepeatedLinesConfig",
            "dataprep.repeated_lines.stage:run",
            "cut lines that stand in many documents",
        ),
        StageKind(
            "dedupe", "dataprep.config:DedupeConfig", "dataprep.dedupe.stage:run", "find exact and near duplicates"
        ),
        StageKind(
            "tokenizer",
            "dataprep.config:TokenizerConfig",
            "dataprep.tokenizer.stage:run",
            "train a byte-level BPE tokenizer",
        ),
        StageKind("tokenize", "dataprep.config:TokenizeConfig", "dataprep.tokenize.stage:run", "write token shards"),
        StageKind(
            "mixture",
            "dataprep.config:MixtureConfig",
            "dataprep.mixture.stage:run",
            "weigh sources, languages and lengths",
        ),
        StageKind(
            "pretrain", "training.pretrain.config:PretrainConfig", "training.pretrain.loop:run", "train a base model"
        ),
        StageKind(
            "preferences",
            "training.config:PreferencesConfig",
            "training.preferences.stage:run",
            "make preference pairs from conversations",
        ),
        StageKind("sft", "training.config:SftConfig", "training.post_training.sft:run", "fine-tune on conversations"),
        StageKind(
            "reward_model",
            "training.config:RewardModelConfig",
            "training.post_training.reward_model:run",
            "train a reward model on preference pairs",
        ),
        StageKind(
            "dpo",
            "training.config:DpoConfig",
            "training.post_training.dpo:run",
            "align by direct preference optimisation",
        ),
        StageKind(
            "ppo", "training.online.config:PpoConfig", "cluster.ppo_stage:run", "align by PPO with served models"
        ),
        StageKind("evaluate", "training.config:EvaluateConfig", "training.evaluate.stage:run", "compare the models"),
    )
}


@cache
def _load(target: str) -> object:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
