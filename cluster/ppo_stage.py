"""The `ppo` stage: starts the policy and reward servers, runs the trainer with a client to them, and stops them.

`training` and `serving` meet here alone. The training loop knows only the protocol `RolloutClient`, and the servers
know nothing of PPO.

To start the servers takes some 15 s of a core. The runner can have that done while the stage before trains
(`start_ahead`); the servers then load their models when PPO begins.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping

from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from serving.config import ServerConfig
from serving.rollout_client import RolloutServers
from training.config import ReplicaGroup
from training.online.config import PpoConfig
from training.online.loop import train


class _StartedAhead:
    """The servers that were started for a stage that is still to come."""

    def __init__(self, servers: RolloutServers) -> None:
        self.servers = servers
        self._failed = False
        self._thread = threading.Thread(target=self._start, daemon=True, name="raymill-servers-ahead")
        self._thread.start()

    def _start(self) -> None:
        try:
            self.servers.start(ahead=True)
        except Exception:  # the stage will start its own, and say what is wrong
            traceback.print_exc()
            self._failed = True

    def wait(self) -> bool:
        """Wait until the servers are on their way; returns whether they are."""
        self._thread.join()
        return not self._failed


_ahead: _StartedAhead | None = None


def start_ahead(config: PpoConfig, inputs: Mapping[str, str]) -> None:
    """Begin to start the servers of a stage that is still to run; `inputs` are URIs by role, not yet there perhaps."""
    global _ahead
    _ahead = _StartedAhead(_servers(config, inputs))


def close_ahead(ray_ends: bool) -> None:
    """Remove servers that no stage has taken; where `ray_ends` they end with it."""
    global _ahead
    started, _ahead = _ahead, None
    if started is not None and not ray_ends:
        started.wait()
        started.servers.close()


def run(config: PpoConfig, inputs: Mapping[str, Artifact], output: str, context: StageContext) -> StageResult:
    """Align `inputs["policy"]` by PPO against `inputs["reward_model"]`, both served by Ray Serve."""
    context.progress.note("starting the policy and reward servers")
    uris = {role: artifact.uri for role, artifact in inputs.items()}
    servers = _take(config, uris) or _servers(config, uris)
    servers.check_models()
    try:
        if not servers.is_started:
            servers.start()
        return train(config, inputs, output, context, servers.ready())
    finally:
        servers.close()


def _take(config: PpoConfig, inputs: Mapping[str, str]) -> RolloutServers | None:
    """The servers that were started ahead, if they are those of this stage."""
    global _ahead
    started, wanted = _ahead, _servers(config, inputs)
    if started is None or not started.wait() or not started.servers.same_as(wanted):
        close_ahead(ray_ends=False)
        return None
    _ahead = None
    return started.servers


def _servers(config: PpoConfig, inputs: Mapping[str, str]) -> RolloutServers:
    return RolloutServers(
        inputs["policy"],
        inputs["reward_model"],
        policy=_server(config.policy_server, update_timeout_s=config.publish_timeout_s),
        reward=_server(config.reward_server),
    )


def _server(group: ReplicaGroup, **settings: float) -> ServerConfig:
    return ServerConfig(**group.model_dump(), **settings)
