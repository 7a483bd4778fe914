"""The HTTP API on Ray Serve: what `raymill serve` runs.

API keys come from the environment or a file (`api_keys.read_api_keys`). Without keys, the API is bound to this machine
only.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError

from cluster.contracts.errors import InputError, ResourceError
from cluster.contracts.records import GenerateRequest, Rollout
from serving.config import HttpLimits, ServerConfig
from serving.deploy import (
    App,
    check_resources,
    deploy,
    policy_application,
    remove,
    reward_application,
    serve_is_running,
    start_serve,
)
from serving.engine.protocol import TokenEvent
from serving.models import check_model_directory, load_tokenizer
from serving.openai_api.api_keys import key_digests
from serving.openai_api.app import build_app
from serving.openai_api.backend import AppSettings
from serving.openai_api.errors import Overloaded
from serving.remote_errors import as_input_error

PROXY_SLACK_S = 10.0  # the app answers 504 itself before the proxy cuts a request off


class ServeBackend:
    """The HTTP app's way to the policy and reward deployments."""

    def __init__(self, policy_app: str, reward_app: str | None) -> None:
        self._policy = serve.get_app_handle(policy_app)
        self._reward = serve.get_app_handle(reward_app) if reward_app is not None else None
        self._max_model_len: int | None = None

    async def max_model_len(self) -> int:
        """Longest prompt and answer together, tokens."""
        if self._max_model_len is None:
            description = await self._policy.describe.remote()
            self._max_model_len = description.max_model_len
        return self._max_model_len

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Rollout]:
        """Whole answers. Raises `Overloaded`."""
        return await _awaited(self._policy.generate.remote(list(requests)))

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """One answer, token by token. Raises `Overloaded` before the first."""
        events = self._policy.options(stream=True).stream.remote(request)
        try:
            async for event in events:
                yield event
        except BackPressureError as error:
            raise Overloaded("all replicas are busy and the queue is full; try again shortly") from error
        except InputError as error:
            raise as_input_error(error) from None
        finally:
            events.cancel()

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Rewards of whole conversations. Raises `Overloaded`."""
        assert self._reward is not None
        return await _awaited(self._reward.score.remote([list(sequence) for sequence in sequences]))


@serve.ingress()
class HttpGateway:
    """The deployment that holds the FastAPI app: tokenises, detokenises, and asks the servers."""

    def __init__(
        self, policy_uri: str, reward_uri: str | None, policy_app: str, reward_app: str | None, settings: AppSettings
    ) -> None:
        self._app = build_app(
            ServeBackend(policy_app, reward_app),
            load_tokenizer(policy_uri),
            load_tokenizer(reward_uri) if reward_uri is not None else None,
            settings,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


@contextmanager
def serve_models(
    policy_uri: str,
    reward_uri: str | None = None,
    *,
    policy: ServerConfig | None = None,
    reward: ServerConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Sequence[str] = (),
    limits: HttpLimits | None = None,
    policy_name: str = "policy",
    reward_name: str = "reward",
) -> Iterator[str]:
    """Serve a policy and, if given, a reward model over HTTP while the block runs; yields the base URL.

    Ray must have been initialised. `policy_name` and `reward_name` are the models' ids in the API.
    Raises `InputError` for an open address without keys, `ResourceError` where the port is taken, Serve already
    runs on this Ray, or the cluster is too small, and `StageFailed` where a server can't start.
    """
    policy, limits = policy or ServerConfig(), limits or HttpLimits()
    reward = reward or ServerConfig()
    check_address(host, port, keys)
    for uri in (policy_uri, reward_uri):
        if uri is not None:
            check_model_directory(uri)
    check_resources({"policy": policy, "reward": reward} if reward_uri is not None else {"policy": policy})
    if serve_is_running():
        raise ResourceError(
            "Ray Serve already runs on this Ray cluster, and its HTTP address can't be changed; "
            "wait until it is done or stop it with `serve shutdown`"
        )
    policy_app, reward_app = "http-policy", "http-reward" if reward_uri is not None else None
    settings = AppSettings(policy_name, reward_name if reward_uri is not None else None, key_digests(keys), limits)
    gateway = serve.deployment(
        HttpGateway,
        name="gateway",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=limits.max_ongoing_requests,
        max_queued_requests=limits.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=limits.retry_after_s),
        graceful_shutdown_timeout_s=5.0,
        graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=2,
    )
    apps = [App(policy_app, policy_application(policy_uri, policy, None))]
    if reward_uri is not None and reward_app is not None:
        apps.append(App(reward_app, reward_application(reward_uri, reward)))
    start_serve(http=(host, port), request_timeout_s=limits.request_timeout_s + PROXY_SLACK_S)
    try:
        deploy(apps, timeout_s=max(policy.startup_timeout_s, reward.startup_timeout_s))
        front = gateway.bind(policy_uri, reward_uri, policy_app, reward_app, settings)
        apps.append(App("http", front, route_prefix="/"))
        deploy(apps[-1:], timeout_s=policy.startup_timeout_s)
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        remove([app.name for app in reversed(apps)])
        serve.shutdown()


def check_address(host: str, port: int, keys: Sequence[str]) -> None:
    """Raises for an address that is open to others without keys, and for one that is taken."""
    if not keys and not _is_loopback(host):
        raise InputError(
            f"{host} can be reached from other machines and no API keys are set; "
            "set RAYMILL_API_KEYS or give a file of keys, or bind 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(f"can't listen on {host}:{port}: {error.strerror}; choose another --port") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _awaited(response: Any) -> Any:
    try:
        return await response
    except BackPressureError as error:
        raise Overloaded("all replicas are busy and the queue is full; try again shortly") from error
    except InputError as error:
        raise as_input_error(error) from None
