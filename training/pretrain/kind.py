"""The pretrain stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import Curve, Gate, StageKind
from training.pretrain.config import PretrainConfig

PRETRAIN = StageKind(
    config=PretrainConfig,
    function="training.pretrain.stage:run",
    summary="train a base model",
    headline=("heldout_loss", "unigram_entropy", "tokens_per_s"),
    gates=(
        # Counts of single words explain the unigram entropy; half a nat below it is order that was learnt.
        Gate("heldout_loss", "lower", "unigram_entropy", lambda entropy, _: entropy - 0.5),
    ),
    curves=(
        Curve("loss", "loss, nats per token"),
        Curve("heldout_loss", "held-out loss"),
        Curve("grad_norm", "gradient norm"),
    ),
    model="policy",
    runs_without_ray=True,
)
