"""What the stages that TRL trains show of their metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import Curve, Gate, ReportFigures, Table

SFT_FIGURES = ReportFigures(
    headline=("heldout_answer_loss", "base_heldout_answer_loss"),
    gates=(Gate("heldout_answer_loss", "lower", "base_heldout_answer_loss"),),
    curves=(Curve("loss", "loss on answers, nats per token"),),
)

REWARD_MODEL_FIGURES = ReportFigures(
    headline=(
        "heldout_pair_accuracy",
        "length_baseline_accuracy",
        "bag_of_words_baseline_accuracy",
        "heldout_kendall_tau",
        "heldout_score_correlation",
    ),
    gates=(
        Gate("heldout_pair_accuracy", "higher", "length_baseline_accuracy", lambda accuracy, _: accuracy + 0.15),
        Gate("heldout_pair_accuracy", "higher", "bag_of_words_baseline_accuracy", lambda accuracy, _: accuracy + 0.15),
    ),
    curves=(Curve("loss", "pair loss"),),
    tables=(
        Table("calibration", "Calibration on held-out pairs: predicted probability against observed share"),
        Table("accuracy_by_subset", "Accuracy on held-out pairs by subset"),
    ),
)

DPO_FIGURES = ReportFigures(
    headline=("heldout_preference_accuracy",),
    gates=(Gate("heldout_preference_accuracy", "higher", 0.5, lambda chance, _: chance + 0.2),),
    curves=(Curve("loss", "DPO loss"), Curve("rewards/margins", "reward margin")),
)

KTO_FIGURES = ReportFigures(
    headline=("heldout_label_auc",),
    gates=(Gate("heldout_label_auc", "higher", 0.5, lambda chance, _: chance + 0.1),),
    curves=(Curve("loss", "KTO loss"), Curve("rewards/margins", "reward margin")),
)
