"""The `ppo` stage: starts the policy and reward servers, runs the trainer with a client to them, and stops them.

`training` and `serving` meet here alone. The training loop knows only the protocol `RolloutClient`, and the servers
know nothing of PPO.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from serving.config import ServerConfig
from serving.rollout_client import rollout_servers
from training.config import ReplicaGroup
from training.online.config import PpoConfig
from training.online.loop import train


def run(config: PpoConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Align `inputs["policy"]` by PPO against `inputs["reward_model"]`, both served by Ray Serve."""
    context.progress.note("starting the policy and reward servers")
    with rollout_servers(
        inputs["policy"].uri,
        inputs["reward_model"].uri,
        policy=_server(config.policy_server, update_timeout_s=config.publish_timeout_s),
        reward=_server(config.reward_server),
    ) as client:
        return train(config, inputs, output, context, client)


def _server(group: ReplicaGroup, **settings: float) -> ServerConfig:
    return ServerConfig(**group.model_dump(), **settings)
