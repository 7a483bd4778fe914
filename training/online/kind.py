"""The ppo stage as a kind: what the runner and the report know of it."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.online.config import PpoConfig
from training.online.report_figures import PPO_FIGURES

_EXAMPLE = """\
stages:
  ppo:
    policy: sft
    reward_model: reward_model
    conversations: conversations
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
    runs_on_workers=True,
    start_ahead="cluster.ppo_stage:start_ahead",
    close_ahead="cluster.ppo_stage:close_ahead",
    import_ahead="training.engine.import_ahead:import_for_training",
    summary="align by PPO with served models",
    makes=(
        "A Hugging Face model directory of the policy, with rewards on held-out prompts before and after, and "
        "`metrics.jsonl`."
    ),
    example=_EXAMPLE,
    figures=PPO_FIGURES,
    model="policy",
)
