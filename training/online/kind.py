"""The ppo stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import Curve, Gate, StageKind
from training.online.config import PpoConfig

_EXAMPLE = """\
stages:
  ppo:
    policy: sft
    reward_model: reward_model
    conversations: [data/conversations.jsonl]
    updates: 100
    prompts_per_update: 64
    max_new_tokens: 128
    kl_coef: 0.05
    kl_ceiling: 8
    workers: {num_workers: 2, cpus: 1}
    policy_server: {num_replicas: 1, cpus: 1}
    reward_server: {num_replicas: 1, cpus: 0.5}
"""

PPO = StageKind(
    config=PpoConfig,
    function="cluster.ppo_stage:run",  # which alone knows both this room and the servers
    summary="align by PPO with served models",
    makes=(
        "A Hugging Face model directory of the policy, with rewards on held-out prompts before and after, and "
        "`metrics.jsonl`."
    ),
    example=_EXAMPLE,
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
    model="policy",
)
