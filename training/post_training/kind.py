"""The stages that TRL trains as kinds: what the runner and the report know of them."""

from __future__ import annotations

from cluster.contracts.stage_kind import Curve, Gate, StageKind
from training.post_training.config import DpoConfig, RewardModelConfig, SftConfig

SFT = StageKind(
    config=SftConfig,
    function="training.post_training.sft:run",
    summary="fine-tune on conversations",
    headline=("heldout_answer_loss", "base_heldout_answer_loss"),
    gates=(Gate("heldout_answer_loss", "lower", "base_heldout_answer_loss"),),
    curves=(Curve("loss", "loss on answers, nats per token"),),
    model="policy",
    runs_without_ray=True,
)

REWARD_MODEL = StageKind(
    config=RewardModelConfig,
    function="training.post_training.reward_model:run",
    summary="train a reward model on preference pairs",
    headline=("heldout_pair_accuracy", "length_baseline_accuracy", "bag_of_words_baseline_accuracy"),
    gates=(
        Gate("heldout_pair_accuracy", "higher", "length_baseline_accuracy", lambda accuracy, _: accuracy + 0.15),
        Gate("heldout_pair_accuracy", "higher", "bag_of_words_baseline_accuracy", lambda accuracy, _: accuracy + 0.15),
    ),
    curves=(Curve("loss", "pair loss"),),
    model="reward",
    runs_without_ray=True,
)

DPO = StageKind(
    config=DpoConfig,
    function="training.post_training.dpo:run",
    summary="align by direct preference optimisation",
    headline=("heldout_preference_accuracy",),
    gates=(Gate("heldout_preference_accuracy", "higher", 0.5, lambda chance, _: chance + 0.2),),
    curves=(Curve("loss", "DPO loss"), Curve("rewards/margins", "reward margin")),
    model="policy",
    runs_without_ray=True,
)
