"""Starts and removes Serve applications. Resources are checked first, and coming up has a deadline.

Serve itself would wait for ever for a replica that no node can hold.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from cluster.contracts.errors import ResourceError, StageFailed
from serving.answers import AnswerServer
from serving.config import ServerConfig
from serving.policy import PolicyServer
from serving.reward import RewardServer

POLL_S = 0.1
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


@dataclass(frozen=True)
class App:
    """A Serve application to be started."""

    name: str
    application: Any  # what `Deployment.bind` returns
    route_prefix: str | None = None  # None: reached by handle only


def serve_is_running() -> bool:
    """Whether this Ray cluster has a Serve controller."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def start_serve(*, http: tuple[str, int] | None = None, request_timeout_s: float | None = None) -> bool:
    """Start Serve where it doesn't run; returns whether this call did. `http` is host and port; None: no HTTP."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve_is_running():
        return False
    if http is None:
        serve.start(proxy_location="Disabled", logging_config=QUIET)
    else:
        options = {"host": http[0], "port": http[1], "request_timeout_s": request_timeout_s}
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config=QUIET)
    return True


def find_serve() -> None:
    """Join the Serve that runs now, in a process that may have used one that is gone and still holds on to it.

    A worker that goes from one stage to the next is such a process.
    """
    serve.start(proxy_location="Disabled", logging_config=QUIET)  # starts nothing where Serve runs


def policy_application(model_uri: str, config: ServerConfig, store: Any | None) -> Any:
    """The policy deployment, bound."""
    return _deployment(PolicyServer, "policy", config).bind(model_uri, config, store)


def reward_application(model_uri: str, config: ServerConfig, store: Any | None = None) -> Any:
    """The reward deployment, bound."""
    return _deployment(RewardServer, "reward", config).bind(model_uri, config, store)


def answer_application(config: ServerConfig) -> Any:
    """The deployment that answers from any model, bound."""
    return _deployment(AnswerServer, "answers", config).bind(config)


def check_resources(configs: Mapping[str, ServerConfig]) -> None:
    """Raises `ResourceError` where the whole cluster has too little for these servers (by role)."""
    there = ray.cluster_resources()
    for resource, asked in (
        ("CPU", {role: config.total_cpus for role, config in configs.items()}),
        ("GPU", {role: config.total_gpus for role, config in configs.items()}),
    ):
        total, available = sum(asked.values()), there.get(resource, 0.0)
        if total > available + 1e-9:
            shares = ", ".join(f"{role} {amount:g}" for role, amount in asked.items())
            raise ResourceError(
                f"the servers need {total:g} {resource}s ({shares}) but the cluster has {available:g}; "
                f"lower {resource.lower()}s or num_replicas, fractions are fine"
            )


def deploy(apps: Sequence[App], *, timeout_s: float) -> None:
    """Start the applications together and wait until all run. On failure none of them is left.

    Raises `StageFailed` with what the replica said where one fails, `ResourceError` where time runs out.
    """
    try:
        begin_to_deploy(apps)
        wait_until_running([app.name for app in apps], timeout_s)
    except BaseException:
        remove([app.name for app in apps])
        raise


def begin_to_deploy(apps: Sequence[App]) -> None:
    """Start the applications together, and don't wait until they run."""
    targets = [
        serve.RunTarget(app.application, name=app.name, route_prefix=app.route_prefix, logging_config=QUIET)
        for app in apps
    ]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def remove(names: Sequence[str]) -> None:
    """Delete applications; absent ones are no error."""
    for name in names:
        if name in serve.status().applications:
            serve.delete(name)


def last_error(message: str) -> str:
    """What a replica's trace ends with, without the trace; a message that has none as it is."""
    errors = list(re.finditer(r"^[\w.]+\.(\w*(?:Error|Failed|Exception)): ", message, re.MULTILINE))
    if not errors:
        return message
    end = errors[-1]
    words = message[end.end() :].strip()
    return words if end.group().startswith("cluster.") else f"{end.group(1)}: {words}"


def wait_until_running(names: Sequence[str], timeout_s: float) -> None:
    """Raises `StageFailed` with what the replica said where one fails, `ResourceError` where time runs out."""
    deadline = time.monotonic() + timeout_s
    while True:
        applications = serve.status().applications
        statuses = {name: applications[name] for name in names if name in applications}
        for name, status in statuses.items():
            if status.status == "DEPLOY_FAILED":
                reasons = [d.message for d in status.deployments.values() if d.message] or [status.message]
                short = f"server {name!r} could not start: {last_error(reasons[0])}"
                raise StageFailed(short) from RuntimeError(reasons[0])  # the trace is for the log
        if len(statuses) == len(names) and all(status.status == "RUNNING" for status in statuses.values()):
            return
        if time.monotonic() > deadline:
            waiting = sorted(name for name in names if name not in statuses or statuses[name].status != "RUNNING")
            free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
            raise ResourceError(
                f"servers {waiting} were not ready after {timeout_s:g} s (free on the cluster: {free}); "
                "give them smaller fractions of a CPU, or raise startup_timeout_s if the model loads slowly"
            )
        time.sleep(POLL_S)


def _deployment(server: type, name: str, config: ServerConfig) -> Any:
    actor_options: dict[str, Any] = {
        "num_cpus": config.cpus,
        "num_gpus": config.gpus,
        # Set before torch is imported: a spinning thread pool starves its neighbours on a shared machine.
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(config.num_threads), "OMP_WAIT_POLICY": "PASSIVE"}},
    }
    if config.memory_gib is not None:
        actor_options["memory"] = int(config.memory_gib * 1024**3)
    return serve.deployment(
        server,
        name=name,
        num_replicas=config.num_replicas,
        ray_actor_options=actor_options,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        health_check_period_s=config.health_check_period_s,
        graceful_shutdown_timeout_s=5.0,
        graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=2,
    )
