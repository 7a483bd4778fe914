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
    check_resources,
    deploy,
    find_serve,
    policy_application,
    remove,
    reward_application,
    start_serve,
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
    check_model_directory(policy_uri)
    check_model_directory(reward_uri)
    check_resources({"policy": policy, "reward": reward})
    if weights_uri is not None:
        storage.delete_directory(weights_uri)
    started_serve = start_serve()
    store = start_weight_store(weights_uri)
    names = [f"{name}-policy", f"{name}-reward"]
    try:
        deploy(
            [
                App(names[0], policy_application(policy_uri, policy, store)),
                App(names[1], reward_application(reward_uri, reward)),
            ],
            timeout_s=max(policy.startup_timeout_s, reward.startup_timeout_s),
        )
        yield ServeRolloutClient(
            policy_app=names[0],
            reward_app=names[1],
            policy_replicas=policy.num_replicas,
            reward_replicas=reward.num_replicas,
            store=store,
            bucket_bytes=policy.bucket_mib * 1024**2,
            update_timeout_s=policy.update_timeout_s,
            request_timeout_s=policy.request_timeout_s,
        )
    finally:
        remove(names)
        if started_serve and not serve.status().applications:
            serve.shutdown()
        ray.kill(store)
        if weights_uri is not None:
            storage.delete_directory(weights_uri)


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
