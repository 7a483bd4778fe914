"""Starting and joining Ray: an embedded single node by default, a running cluster by address.

Every Ray process gets the variables of `LOCAL_ENVIRONMENT`: waiting threads yield their core, and no library asks a
model hub for anything.

On a machine that others keep busy Ray's own processes take minutes to start, and Ray by itself waits 30 s. An embedded
Ray is therefore waited for longer (`START_LIMITS`), started again where that was in vain, and then given up with a
sentence.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from cluster.contracts.errors import ResourceError
from cluster.spec import ClusterResources
from training.launch.standing_group import WAITING_WORKERS

# How long Ray waits for its own processes: the raylet for its helpers and workers, the driver for raylet and GCS.
START_LIMITS = {
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_gcs_server_port_wait_time_s": "240",
    "RAY_py_gcs_connect_timeout_s": "60",  # as long do helpers of a killed driver's Ray look for it
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    "RAY_raylet_client_num_connect_attempts": "60",  # of a second each
    "RAY_agent_register_timeout_ms": "240000",
    "RAY_worker_register_timeout_seconds": "300",  # a worker that is late is ended, and its start begins anew
    "RAY_health_check_failure_threshold": "30",  # times 3 s without an answer until a node counts as lost
}
for _name, _value in START_LIMITS.items():
    os.environ.setdefault(_name, _value)  # some are read when Ray is imported
# A thread that is late, and calls Ray when ours has ended, must not start another one or join a stranger's.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import ray  # noqa: E402

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


START_ATTEMPTS = 2
_BUSY_PER_CORE = 4.0  # load per core from which a machine counts as busy
_STILL_WAITING_S = 30.0  # between two notes that Ray is still starting
_AS_MANY_AS_ASKED_FOR = 1_000_000  # of what stands for CPUs, which are counted elsewhere
_PAUSE_S = 5.0  # before another attempt


@contextmanager
def ray_session(
    resources: ClusterResources,
    address: str | None,
    env_vars: Mapping[str, str],
    note: Callable[[str], None] = lambda message: None,
) -> Iterator[None]:
    """Ray for the length of the block: joined at `address`, or started here and stopped at the end.

    `note` is told of an attempt to start that failed. Raises `ResourceError` where the cluster can't be reached, Ray
    can't be started, or shared memory is too small.
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
            with _own_signal_handlers():
                ray.init(address=address, runtime_env=runtime_env, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ResourceError(f"no Ray cluster answers at {address!r}: {error}") from error
    else:
        object_store = int(resources.object_store_gib * 2**30)
        _check_shared_memory(object_store)
        # An actor per training stage that asks whether this machine is about to be preempted: 1.6 s of a core to start.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        start = partial(
            ray.init,
            address="local",  # whatever else runs on this machine is not ours to join
            num_cpus=_whole_cpus(resources.cpus),
            num_gpus=resources.gpus,
            resources={WAITING_WORKERS: _AS_MANY_AS_ASKED_FOR},
            object_store_memory=object_store,
            include_dashboard=False,
            **common,
        )
        _start(start, note)
    try:
        yield
    finally:
        ray.shutdown()
        if address is None:
            end_left_processes()


def end_left_processes(wait_s: float = 3.0) -> None:
    """End what is left of this process's own Ray, some moments after it was stopped.

    A worker process that is just starting when its raylet dies doesn't notice, and looks for it for minutes. Such a
    process still carries its session's name, which ends with the driver's process id, among its arguments.
    """
    session = re.compile(rf"session_[0-9_-]+_{os.getpid()}(?![0-9])")
    began, deadline = psutil.Process().create_time(), time.monotonic() + wait_s
    while True:
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                arguments = " ".join(process.cmdline())
                if "/ray/" in arguments and session.search(arguments) and process.create_time() >= began:
                    left.append(process)
        if not left or time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put back the handlers that Ray replaces as it starts: at SIGTERM its own end the process by an abort."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminated = False
    try:
        yield
    except SystemExit:  # what Ray's own handler makes of a SIGTERM in the meantime
        terminated = True
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)  # so that ours hears of it
        raise KeyboardInterrupt


def _start(start: Callable[[], object], note: Callable[[str], None]) -> None:
    """Start an embedded Ray, at the second attempt at the latest. Raises `ResourceError` where none succeeds."""
    began = time.monotonic()
    for attempt in range(1, START_ATTEMPTS + 1):
        earlier = {child.pid for child in psutil.Process().children()}
        at_ease = attempt == 1 and psutil.getloadavg()[0] < _BUSY_PER_CORE * (psutil.cpu_count() or 1)
        try:
            ports = nullcontext() if at_ease else _agent_ports_given()
            with _told_while_waiting(note), ports, _in_a_process_group_of_its_own(), _own_signal_handlers():
                start()
            return
        except BaseException as error:  # also an interrupt leaves half a Ray behind
            _end_new_children(earlier)
            if not isinstance(error, Exception):  # Ray raises a plain Exception where its time is up
                raise
            traceback.print_exc()
            reason = str(error).strip().splitlines() or [type(error).__name__]
        if attempt < START_ATTEMPTS:
            note(f"Ray did not start ({_busy()}); trying again ({attempt + 1} of {START_ATTEMPTS} attempts)")
            time.sleep(_PAUSE_S)
    logs = Path(tempfile.gettempdir()) / "ray"
    raise ResourceError(
        f"Ray could not be started on this machine in {START_ATTEMPTS} attempts and "
        f"{time.monotonic() - began:.0f} s: {reason[0]}\n    {_busy()}. Wait until the machine is less "
        f"busy or end other programs, and run this again; Ray's own logs are under {logs}"
    )


@contextmanager
def _in_a_process_group_of_its_own() -> Iterator[None]:
    """Start Ray's processes apart from ours, so that a signal to our process group reaches us alone.

    A raylet that gets a SIGTERM too is sooner gone than we have stopped, and Ray's C++ code then ends us with 1. If we
    are killed, the kernel still ends Ray's processes, as Ray asks it to.
    """
    services = ray._private.services
    original = services.ConsolePopen
    services.ConsolePopen = partial(original, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = original


@contextmanager
def _agent_ports_given() -> Iterator[None]:
    """Choose the ports of the raylet's two helpers, where they would choose them and the raylet wait to be told.

    It waits 15 to 25 s, a number in its C++ code, and then ends itself; on a busy machine two Python processes take
    longer to start. Only there, since a port chosen beforehand may be somebody else's by the time it is bound.
    """
    parameter = ray._private.parameter
    original = parameter.RayParams
    names = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in names]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        ports = {name: probe.getsockname()[1] for name, probe in zip(names, sockets, strict=True)}
    parameter.RayParams = partial(original, **ports)
    try:
        yield
    finally:
        parameter.RayParams = original


@contextmanager
def _told_while_waiting(note: Callable[[str], None]) -> Iterator[None]:
    """Say every half minute that Ray is still starting, since to start it is one long call."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(_STILL_WAITING_S):
            note(f"Ray is still starting ({_busy()})")

    threading.Thread(target=tell, daemon=True, name="raymill-waiting").start()
    try:
        yield
    finally:
        done.set()


def _busy() -> str:
    return f"{psutil.getloadavg()[0]:.0f} processes want to run on {psutil.cpu_count()} cores"


def _end_new_children(earlier: set[int]) -> None:
    """End what an attempt to start Ray left behind: half a Ray of which nobody knows."""
    # Found before Ray stops what it knows of: a dead raylet's helpers are nobody's children.
    children = [child for child in psutil.Process().children() if child.pid not in earlier]
    left = children.copy()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            left += child.children(recursive=True)
    ray.shutdown()
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    end_left_processes(wait_s=0.0)


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
