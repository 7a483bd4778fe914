"""The servers that stages call, and the clients that they call them with: through Serve handles, without HTTP.

`rollout_servers` are online RL's policy and reward servers; the client that it yields is pickled to every training
rank. `answer_servers` let finished models answer, one after another, for stages that sample or measure them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from cluster.contracts import storage
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.records import GenerateRequest, Rollout
from serving.config import ServerConfig
from serving.deploy import (
    App,
    answer_application,
    begin_to_deploy,
    check_resources,
    deploy,
    find_serve,
    policy_application,
    remove,
    reward_application,
    start_serve,
    wait_until_running,
)
from serving.models import check_model_directory
from serving.remote_errors import as_input_error
from serving.weight_updates.store import publish, start_weight_store

CALLS_PER_REPLICA = 4  # a batch is cut finer than the replicas are many, so that a slow part holds up less
RETRY_PAUSE_S = 0.5


@dataclass
class ServeRolloutClient:
    """A `cluster.contracts.records.RolloutClient` over Serve handles. Picklable within one Ray cluster.

    Calls lost with a replica are sent again, to another one or to its successor.
    """

    policy_app: str
    reward_app: str
    policy_replicas: int
    reward_replicas: int
    store: Any
    bucket_bytes: int
    update_timeout_s: float
    request_timeout_s: float
    _handles: dict[str, Any] = field(default_factory=dict, repr=False)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """Answers in the order of the requests. Blocks. Raises `InputError` for a request that can't be answered."""
        return self._fan_out(self.policy_app, "generate", list(requests), self.policy_replicas)

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[float]:
        """One reward per whole conversation (prompt and answer token ids). Blocks."""
        sequences = [[int(token) for token in sequence] for sequence in token_ids]
        return self._fan_out(self.reward_app, "score", sequences, self.reward_replicas)

    def publish(self, version: int, state: dict[str, Any]) -> None:
        """Make `state` (name -> tensor) version `version` on every replica. Raises `StageFailed` if one does not."""
        publish(
            self.store,
            self._handle(self.policy_app),
            version,
            state,
            bucket_bytes=self.bucket_bytes,
            timeout_s=self.update_timeout_s,
        )

    def _fan_out(self, app: str, method: str, items: list[Any], num_replicas: int) -> list[Any]:
        if not items:
            return []
        num_calls = 1 if num_replicas == 1 else min(len(items), num_replicas * CALLS_PER_REPLICA)
        size = -(-len(items) // num_calls)
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        deadline = time.monotonic() + self.request_timeout_s
        remote = getattr(self._handle(app), method).remote
        responses = [remote(chunk) for chunk in chunks]
        results = []
        for chunk, response in zip(chunks, responses, strict=True):
            results.extend(_result(response, partial(remote, chunk), deadline, app))
        return results

    def _handle(self, app: str) -> Any:
        if app not in self._handles:
            find_serve()
            self._handles[app] = serve.get_app_handle(app)
        return self._handles[app]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}


class RolloutServers:
    """The policy and the reward servers of one trainer: started, made ready, and closed.

    They may be started before their models are there. Then they have loaded their libraries by the time that they are
    made ready, and load their models at that time.
    """

    def __init__(
        self,
        policy_uri: str,
        reward_uri: str,
        *,
        policy: ServerConfig,
        reward: ServerConfig,
        name: str = "rollouts",
        weights_uri: str | None = None,
    ) -> None:
        """See `rollout_servers`."""
        self.policy_uri, self.reward_uri, self.policy, self.reward = policy_uri, reward_uri, policy, reward
        self._names = [f"{name}-policy", f"{name}-reward"]
        self._weights_uri = weights_uri
        self._store: Any = None
        self._started_serve = False

    @property
    def is_started(self) -> bool:
        """Whether the servers are on their way, or there."""
        return self._store is not None

    def same_as(self, other: RolloutServers) -> bool:
        """Whether both are of the same models and settings."""
        mine, theirs = ((s.policy_uri, s.reward_uri, s.policy, s.reward) for s in (self, other))
        return mine == theirs

    def check_models(self) -> None:
        """Raises `InputError` where there is no model."""
        check_model_directory(self.policy_uri)
        check_model_directory(self.reward_uri)

    def start(self, *, ahead: bool = False) -> None:
        """Have the servers started; returns before they are. `ahead`: they wait with their models until `ready`.

        Raises `ResourceError` where the cluster is too small.
        """
        check_resources({"policy": self.policy, "reward": self.reward})
        if self._weights_uri is not None:
            storage.delete_directory(self._weights_uri)
        self._started_serve = start_serve()
        self._store = start_weight_store(self._weights_uri, hold=ahead)
        begin_to_deploy(
            [
                App(self._names[0], policy_application(self.policy_uri, self.policy, self._store)),
                App(self._names[1], reward_application(self.reward_uri, self.reward, self._store)),
            ]
        )

    def ready(self) -> ServeRolloutClient:
        """Wait until the servers answer, and return a client. Raises `ResourceError` or `StageFailed`."""
        ray.get(self._store.release.remote())
        wait_until_running(self._names, max(self.policy.startup_timeout_s, self.reward.startup_timeout_s))
        return ServeRolloutClient(
            policy_app=self._names[0],
            reward_app=self._names[1],
            policy_replicas=self.policy.num_replicas,
            reward_replicas=self.reward.num_replicas,
            store=self._store,
            bucket_bytes=self.policy.bucket_mib * 1024**2,
            update_timeout_s=self.policy.update_timeout_s,
            request_timeout_s=self.policy.request_timeout_s,
        )

    def close(self) -> None:
        """Remove whatever of them has been started."""
        if self._store is None:
            return
        remove(self._names)
        if self._started_serve and not serve.status().applications:
            serve.shutdown()
        ray.kill(self._store)
        if self._weights_uri is not None:
            storage.delete_directory(self._weights_uri)


@contextmanager
def rollout_servers(
    policy_uri: str,
    reward_uri: str,
    *,
    policy: ServerConfig,
    reward: ServerConfig,
    name: str = "rollouts",
    weights_uri: str | None = None,
) -> Iterator[ServeRolloutClient]:
    """Serve the two models for as long as the block runs.

    Args:
        policy_uri, reward_uri: model directories, local or remote.
        name: begins the applications' names; servers of the same name that a dead driver left are replaced.
        weights_uri: a directory of this block's own, emptied before and after, that holds the newest published
            weights; with it they survive the weight store itself. None: they are in memory only.

    Raises `ResourceError`, `InputError` or `StageFailed` where they can't be started.
    """
    servers = RolloutServers(policy_uri, reward_uri, policy=policy, reward=reward, name=name, weights_uri=weights_uri)
    servers.check_models()
    try:
        servers.start()
        yield servers.ready()
    finally:
        servers.close()


@dataclass
class ServeAnswerClient:
    """A `cluster.contracts.records.AnswerClient` over a Serve handle.

    Each call goes to one replica whole, so that answers do not depend on how many replicas there are: what a row is
    batched with bears on the last bits of its logits. Callers that want several replicas to work call from threads.
    """

    app: str
    request_timeout_s: float
    _handle: Any

    def generate(self, model_uri: str, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """Answers in the order of the requests. Blocks. Raises `InputError` for a request that can't be answered."""
        rollouts: list[Rollout] = self._call("generate", model_uri, list(requests))
        return rollouts

    def max_model_len(self, model_uri: str) -> int:
        """The most tokens that a prompt of this model and its answer may have together."""
        return int(self._call("max_model_len", model_uri))

    def _call(self, method: str, *arguments: Any) -> Any:
        send = partial(getattr(self._handle, method).remote, *arguments)
        return _result(send(), send, time.monotonic() + self.request_timeout_s, self.app)


@contextmanager
def answer_servers(config: ServerConfig, *, name: str = "answers") -> Iterator[ServeAnswerClient]:
    """Serve answers of any model for as long as the block runs; each replica loads a model when it is asked for it.

    Servers of the same name that a dead driver left are replaced. Raises `ResourceError` or `StageFailed` where they
    can't be started.
    """
    check_resources({"answers": config})
    started_serve = start_serve()
    try:
        deploy([App(name, answer_application(config))], timeout_s=config.startup_timeout_s)
        yield ServeAnswerClient(name, config.request_timeout_s, serve.get_app_handle(name))
    finally:
        remove([name])
        if started_serve and not serve.status().applications:
            serve.shutdown()


def _result(response: Any, send_again: Callable[[], Any], deadline: float, app: str) -> Any:
    """A response's value, the call sent again for as long as replicas die under it."""
    while True:
        try:
            return response.result(timeout_s=max(0.0, deadline - time.monotonic()))
        except (RayActorError, DeploymentUnavailableError) as error:
            if time.monotonic() > deadline:
                raise StageFailed(f"no replica of {app!r} lived long enough to answer: {error}") from error
            time.sleep(RETRY_PAUSE_S)
            response = send_again()
        except InputError as error:
            raise as_input_error(error) from None
        except TimeoutError as error:
            raise StageFailed(
                f"{app!r} did not answer in time; raise request_timeout_s or send smaller batches"
            ) from error
