"""Starting and joining Ray: an embedded single node by default, a running cluster by address.

Waiting threads yield their core and nobody asks a model hub for anything, by environment variables that every Ray
process inherits.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from cluster.contracts.errors import ResourceError
from cluster.spec import ClusterResources

LOCAL_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of one role starve the others on the same cores
    "HF_HUB_OFFLINE": "1",  # nothing on the default path needs the hub; a stall on it would look like a hang
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def worker_environment() -> dict[str, str]:
    """What every Ray process gets, unless the user's environment says otherwise."""
    return {name: os.environ.get(name, value) for name, value in LOCAL_ENVIRONMENT.items()}


@contextmanager
def ray_session(resources: ClusterResources, address: str | None, env_vars: Mapping[str, str]) -> Iterator[None]:
    """Ray for the length of the block: joined at `address`, or started here and stopped at the end.

    Raises `ResourceError` where the cluster can't be reached or shared memory is too small.
    """
    environment = {**worker_environment(), **env_vars}
    os.environ.update(environment)
    for name in ("ray", "ray.train", "ray.data", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)
    common: dict[str, Any] = {"log_to_driver": False, "namespace": "raymill", "logging_level": logging.WARNING}
    if address is not None:
        try:
            # A submitted job has its environment already, and Ray refuses a driver that sets the same variables again.
            inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
            runtime_env = None if inside_job else {"env_vars": environment}
            ray.init(address=address, runtime_env=runtime_env, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ResourceError(f"no Ray cluster answers at {address!r}: {error}") from error
    else:
        object_store = int(resources.object_store_gib * 2**30)
        _check_shared_memory(object_store)
        # An actor per training stage that asks whether this machine is about to be preempted: 1.6 s of a core to start.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        ray.init(
            address="local",  # whatever else runs on this machine is not ours to join
            num_cpus=_whole_cpus(resources.cpus),
            num_gpus=resources.gpus,
            object_store_memory=object_store,
            include_dashboard=False,
            **common,
        )
    try:
        yield
    finally:
        ray.shutdown()


def cluster_resources() -> dict[str, float]:
    """Ray's resource table of the whole cluster."""
    return dict(ray.cluster_resources())


def check_storage_is_shared(storage_uri: str) -> None:
    """Refuse a local storage directory that some node of the cluster can't see."""
    from cluster.contracts import storage

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not storage.is_local(storage_uri) or len(nodes) < 2:
        return
    probe = storage.join(storage_uri, f".probe-{os.getpid()}")
    storage.write_bytes(probe, b"raymill")
    try:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        blind = []
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = ray.remote(num_cpus=0, scheduling_strategy=strategy)(os.path.exists)
            if not ray.get(look.remote(str(storage.local_path(probe))), timeout=60):
                blind.append(node["NodeManagerAddress"])
    finally:
        storage.delete_file(probe)
    if blind:
        raise ResourceError(
            f"storage {storage_uri} is not visible on node(s) {', '.join(blind)}; "
            "give a directory that all nodes mount, or an s3:// URI, with --storage"
        )


def check_memory(needed_gib: float) -> None:
    """Refuse to start where less memory is free than the spec says the run needs."""
    free = psutil.virtual_memory().available / 2**30
    if free < needed_gib:
        raise ResourceError(
            f"the run needs {needed_gib:g} GiB of free memory (resources.memory_gib); {free:.1f} GiB are free. "
            "End other programs, or lower resources.memory_gib if you know that your stages need less."
        )


def check_disk(storage_uri: str, needed_gib: float) -> None:
    """Refuse a stage where less disk is free than the spec says a stage needs."""
    from cluster.contracts import storage

    if not storage.is_local(storage_uri):
        return
    directory = storage.local_path(storage_uri)
    directory.mkdir(parents=True, exist_ok=True)
    free = psutil.disk_usage(str(directory)).free / 2**30
    if free < needed_gib:
        raise ResourceError(
            f"a stage needs {needed_gib:g} GiB of free disk (resources.disk_gib); {free:.1f} GiB are free under "
            f"{directory}. Free some, move `storage` to a larger disk, or lower resources.disk_gib."
        )


def _whole_cpus(cpus: float | None) -> int | None:
    return None if cpus is None else max(1, int(cpus))


def _check_shared_memory(needed: int) -> None:
    for place in (Path("/dev/shm"), Path(tempfile.gettempdir())):
        if place.is_dir() and psutil.disk_usage(str(place)).free >= needed:
            return
    raise ResourceError(
        f"Ray's object store needs {needed / 2**30:g} GiB in /dev/shm or {tempfile.gettempdir()} "
        "(resources.object_store_gib); neither has that much free"
    )
