"""What the pretrain stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import Curve, Gate, ReportFigures

PRETRAIN_FIGURES = ReportFigures(
    headline=("heldout_loss", "unigram_entropy", "tokens_per_s"),
    gates=(
        # Counts of single words explain the unigram entropy; half a nat below it is order that was learnt.
        Gate("heldout_loss", "lower", "unigram_entropy", lambda entropy, _: entropy - 0.5),
    ),
    curves=(
        Curve("loss", "training loss, nats per token", "unigram_entropy"),
        Curve("heldout_loss", "held-out loss, nats per token", "unigram_entropy"),
        Curve("grad_norm", "gradient norm"),
    ),
)
