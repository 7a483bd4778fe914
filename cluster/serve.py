"""`raymill serve` and `raymill chat`: a run's models behind HTTP on this machine."""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.contracts import storage
from cluster.contracts.artifacts import open_artifact
from cluster.contracts.errors import InputError, Problem, SpecError
from cluster.run_record import RunRecord, RunStage, run_uri
from cluster.spec import ClusterResources
from cluster.stage_kinds import kinds_of_models
from cluster.starting_models import Role, whole_model
from cluster.terminal import quiet_terminal
from serving.openai_api.api_keys import read_api_keys
from serving.terminal_chat import chat_loop


def serve_run(
    record: RunRecord, *, stage: str | None, host: str, port: int, key_file: Path | None, cpus: int, gpus: int
) -> None:
    """Serve a run's model, and its reward model where it has one, until Ctrl-C; they share the CPUs and GPUs."""
    from serving.http_gateway import check_address

    policy = served_stage(record, stage)
    keys = read_api_keys(key_file)
    check_address(host, port, keys)
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    with quiet_terminal(_log_path(record)) as terminal:
        terminal.line(f"starting the servers of run {record.name}", style="dim")
        reward = record.newest_of(*kinds_of_models("reward"))
        with servers(record, policy, reward, host=host, port=port, keys=keys, cpus=cpus, gpus=gpus) as url:
            terminal.line(f"{record.name} ({policy.kind} {policy.fingerprint}) answers at {url}")
            terminal.line(f"    POST {url}/v1/chat/completions   /v1/completions   /v1/score   GET /v1/models")
            terminal.line(f"    raymill chat --url {url}" + ("   (with a key in RAYMILL_API_KEYS)" if keys else ""))
            terminal.line("Ctrl-C stops it")
            stop.wait()
            terminal.line("stopping")


def chat_with_run(record: RunRecord, *, stage: str | None) -> None:
    """Talk to a run's model in the terminal, on a server of its own that ends with the chat."""
    policy = served_stage(record, stage)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with quiet_terminal(_log_path(record)) as terminal:
        terminal.line(f"starting the {policy.kind} model of run {record.name}", style="dim")
        with servers(record, policy, None, host="127.0.0.1", port=port, keys=[], cpus=2, gpus=0) as url:
            _chat(url, write=lambda text: terminal.console.out(text, end="", highlight=False))


def chat_with_url(url: str) -> None:
    """Talk to a server that runs already; its key comes from `RAYMILL_API_KEYS`."""
    _chat(url, write=lambda text: print(text, end="", flush=True))


def served_stage(record: RunRecord, stage: str | None) -> RunStage:
    """The stage whose model is served: the one named `stage`, or with None the most aligned one that is finished.

    Raises `SpecError` where `stage` is no finished model of the run, and `InputError` where the run has none.
    """
    kinds = kinds_of_models("policy")
    if stage is not None:
        found = record.stages.get(stage)
        models = [name for name, s in record.stages.items() if s.kind in kinds and s.finished]
        if found is None or stage not in models:
            raise SpecError(
                [Problem("--model", stage, "is no finished model of this run", f"allowed: {models}")], "serve"
            )
        return found
    newest = record.newest_of(*kinds)
    if newest is None:
        raise InputError(f"run {record.name!r} has no finished model yet; `raymill run` its spec first")
    return newest


@contextmanager
def servers(
    record: RunRecord,
    policy: RunStage,
    reward: RunStage | None,
    *,
    host: str,
    port: int,
    keys: list[str],
    cpus: int,
    gpus: int,
) -> Iterator[str]:
    """The URL of a run's models behind HTTP, for as long as the block runs."""
    from cluster.ray_session import ray_session
    from serving.config import ServerConfig
    from serving.http_gateway import serve_models

    def whole(stage: RunStage, role: Role) -> str:
        """The URI of a stage's model; of an adapter, what it makes of its base."""
        artifact = open_artifact(stage.uri)
        return whole_model(
            artifact, role, fingerprint=stage.fingerprint, storage_uri=record.storage, scratch=Path(scratch)
        ).uri

    num_servers = 2 if reward else 1
    share = ServerConfig(cpus=cpus / num_servers, gpus=gpus / num_servers)
    with tempfile.TemporaryDirectory(prefix="raymill-serve-") as scratch:
        policy_uri, reward_uri = whole(policy, "policy"), whole(reward, "reward") if reward else None
    with (
        ray_session(ClusterResources(cpus=cpus, gpus=gpus), None, {}),
        serve_models(
            policy_uri,
            reward_uri,
            policy=share,
            reward=share,
            host=host,
            port=port,
            keys=keys,
            policy_name=record.name,
            reward_name=f"{record.name}-reward",
        ) as url,
    ):
        yield url


def _chat(url: str, *, write: Callable[[str], None]) -> None:
    keys = read_api_keys()
    chat_loop(url, keys[0] if keys else None, read_line=input, write=write)


def _log_path(record: RunRecord) -> Path:
    if storage.is_local(record.storage):
        return storage.local_path(run_uri(record.storage, record.name, "logs", "serve.log"))
    return Path(tempfile.gettempdir()) / f"raymill-serve-{record.name}.log"
