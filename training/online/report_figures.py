"""What the ppo stage shows of its metrics: headline figures, gates, curves."""

from __future__ import annotations

from cluster.contracts.stage_kind import Curve, Gate, ReportFigures

PPO_FIGURES = ReportFigures(
    headline=("heldout_reward_before", "heldout_reward_after", "heldout_reward_se", "kl_to_reference"),
    gates=(
        Gate(
            "heldout_reward_after",
            "higher",
            "heldout_reward_before",
            lambda before, metrics: before + 2 * metrics["heldout_reward_se"],
            needs=("heldout_reward_se",),
        ),
        Gate("kl_to_reference", "lower", "kl_ceiling"),
        # Fewer than half as many different answers is collapse, whatever the reward says.
        Gate("distinct_answers_after", "higher", "distinct_answers_before", lambda before, _: (before - 1) / 2),
    ),
    curves=(
        Curve("reward", "mean reward", "heldout_reward_before", "held-out reward before training"),
        Curve("kl", "KL to the reference, nats per answer", "kl_ceiling", "ceiling"),
    ),
)
