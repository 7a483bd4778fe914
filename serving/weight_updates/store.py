"""How new weights reach every replica: one actor owns them, and a message tells the replicas to switch.

An object in Ray's store dies with its owner. So the trainer must not own weights that a replica may still fetch after
the trainer was killed: the `WeightStore` actor puts them itself.

A publication has a rising number of its own, beside the policy version that it carries. A trainer that goes on from a
checkpoint may publish version 12 twice, and the second one must replace the first. Where a directory is given, the
newest publication also goes to storage, so that the actor itself can be restarted.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import safetensors.torch
import torch
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from cluster.contracts import storage
from cluster.contracts.commit import (
    CommittedPart,
    check_content,
    commit_part,
    committed_part,
    committed_parts,
    remove_part,
)
from cluster.contracts.errors import StageFailed
from serving.remote_errors import without_trace
from serving.weight_updates.buckets import Bucket, pack, unpack

STORED_BUCKET_BYTES = 256 * 1024**2
_POLL_S = 0.1  # how often a server asks whether its model is there
SERVE_NAMESPACE = "serve"  # where Ray Serve names its replicas' actors
_INTERRUPTED = (
    "the publication was interrupted: another publisher began one, or the weight store was restarted; publish again"
)


@dataclass(frozen=True)
class Publication:
    """A complete set of weights."""

    number: int  # rises from one to the next; never given twice, not even by a store that was restarted
    version: int  # the policy version they carry, chosen by the publisher
    buckets: tuple[Any, ...]  # object references of `Bucket`s, owned by the store


class WeightStore:
    """An actor. Holds the newest complete publication and the one that is coming in.

    Threaded: a replica's fetch never waits for a write to storage.
    """

    def __init__(self, directory: str | None, hold: bool = False) -> None:
        """With `hold`, servers load no model before `release`."""
        self._directory = directory
        self._lock = threading.Lock()
        self._persisting = threading.Lock()
        self._current: Publication | None = None
        self._before: Publication | None = None  # what a publication that replicas refuse is taken back to
        self._attempt = ""
        self._incoming: dict[int, Any] = {}
        self._released = not hold
        self._holding: dict[str, int] = {}  # replica's actor name -> number of its publication
        if directory is not None:
            self._current = _load_newest(directory)
        self._last_number = self._current.number if self._current else 0

    def begin(self) -> str:
        """Start a publication; what an earlier, dead publisher left unfinished is dropped."""
        with self._lock:
            self._attempt, self._incoming = uuid.uuid4().hex, {}
            return self._attempt

    def add(self, attempt: str, index: int, bucket: Bucket) -> None:
        """Take one bucket over: from here on this actor owns its bytes."""
        reference = ray.put(bucket)
        with self._lock:
            if attempt != self._attempt:
                raise StageFailed(_INTERRUPTED)
            self._incoming[index] = reference

    def commit(self, attempt: str, version: int) -> int:
        """Make the buckets the current publication; returns its number."""
        with self._lock:
            if attempt != self._attempt:
                raise StageFailed(_INTERRUPTED)
            self._last_number = max(self._last_number + 1, time.time_ns())
            buckets = tuple(self._incoming[index] for index in sorted(self._incoming))
            self._before, self._current = self._current, Publication(self._last_number, version, buckets)
            self._attempt, self._incoming = "", {}
            return self._last_number

    def settle(self, number: int) -> None:
        """All replicas serve publication `number`: the one before is not needed any more."""
        with self._lock:
            if self._current is not None and self._current.number == number:
                self._before = None

    def retract(self, number: int) -> None:
        """Go back to the publication before `number`, which replicas refused."""
        with self._lock:
            if self._current is not None and self._current.number == number:
                self._current, self._before = self._before, None
        self.persist()

    def current(self) -> Publication | None:
        """The newest complete publication, None before the first."""
        return self._current

    def current_number(self) -> int:
        """Its number, 0 before the first."""
        return self._current.number if self._current else 0

    def persist(self) -> None:
        """Write the current publication to storage, and then remove all others."""
        if self._directory is None:
            return
        with self._persisting:
            publication = self._current
            kept = _save(self._directory, publication) if publication is not None else None
            for key in committed_parts(self._directory):
                if key != kept:
                    remove_part(self._directory, key)

    def release(self) -> None:
        """The models are there: servers that wait for them may load them."""
        self._released = True

    def is_released(self) -> bool:
        """Whether servers may load their models."""
        return self._released

    def confirm(self, replica_name: str, number: int) -> None:
        """A replica says which publication it serves (0: the weights it was deployed with)."""
        with self._lock:
            self._holding[replica_name] = number

    def holding(self) -> dict[str, int]:
        """What every replica that ever was serves, or served last."""
        with self._lock:
            return dict(self._holding)


def wait_for_release(store: Any) -> None:
    """In a server: wait until the models are there."""
    while not ray.get(store.is_released.remote()):
        time.sleep(_POLL_S)


def start_weight_store(directory: str | None, *, hold: bool = False) -> Any:
    """A `WeightStore` actor's handle. It restarts by itself only where storage can give it its weights back."""
    restarts = {} if directory is None else {"max_restarts": -1, "max_task_retries": -1}
    actor = ray.remote(num_cpus=0, max_concurrency=8, **restarts)(WeightStore)
    return actor.remote(directory, hold)


def publish(
    store: Any, policy: Any, version: int, state: Mapping[str, torch.Tensor], *, bucket_bytes: int, timeout_s: float
) -> None:
    """Hand `state` to the store and wait until every live replica of deployment handle `policy` serves it.

    A replica that dies meanwhile is none that lives: it fetches the newest weights before it is ready again.
    Raises `StageFailed`, naming the replicas, where one does not switch within `timeout_s`; and where the weights
    are not the model's, in which case the ones before stay.
    """
    attempt = ray.get(store.begin.remote())
    under_way = None
    for index, bucket in enumerate(pack(state, bucket_bytes=bucket_bytes)):
        added = store.add.remote(attempt, index, bucket)
        if under_way is not None:
            ray.get(under_way)  # one bucket is packed while the one before travels; memory holds no more
        under_way = added
    if under_way is not None:
        ray.get(under_way)
    number = ray.get(store.commit.remote(attempt, version))
    store.persist.remote()
    _switch(store, policy, number, version, timeout_s)
    store.settle.remote(number)


def _switch(store: Any, policy: Any, number: int, version: int, timeout_s: float) -> None:
    try:
        results = policy.broadcast("update", number).results(timeout_s=timeout_s, return_exceptions=True)
    except DeploymentUnavailableError:
        return  # no replica lives; those that start fetch the newest weights first
    except TimeoutError:
        results = [TimeoutError()]
    errors = [r for r in results if isinstance(r, Exception) and not isinstance(r, RayActorError)]
    if not errors:
        return
    if all(isinstance(error, TimeoutError) for error in errors):
        held = ray.get(store.holding.remote())
        behind = sorted(name for name, held_number in held.items() if held_number < number and _lives(name))
        raise StageFailed(
            f"policy replicas {behind} did not switch to version {version} within {timeout_s:g} s; "
            "raise update_timeout_s if the model is large, else look into the replica's log"
        )
    ray.get(store.retract.remote(number))
    raise StageFailed(f"the policy refused version {version}: {without_trace(errors[0])}") from errors[0]


def _lives(replica_name: str) -> bool:
    """Whether the replica's actor is still there."""
    try:
        ray.get_actor(replica_name, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _save(directory: str, publication: Publication) -> str:
    """Commit a publication; returns its key. One that is there already is left as it is."""
    key = f"publication-{publication.number:020d}"
    if committed_part(directory, key) is None:
        with commit_part(directory, key) as part:
            for index, reference in enumerate(publication.buckets):
                with part.open(f"bucket-{index:06d}", f"{index:06d}.safetensors") as sink:
                    sink.write(safetensors.torch.save(unpack(ray.get(reference))))
            part.metrics.update(number=publication.number, version=publication.version)
    return key


def _load_newest(directory: str) -> Publication | None:
    parts = committed_parts(directory)
    if not parts:
        return None
    newest = parts[max(parts)]
    references = [ray.put(bucket) for bucket in _read_buckets(directory, newest)]
    return Publication(newest.metrics["number"], newest.metrics["version"], tuple(references))


def _read_buckets(directory: str, part: CommittedPart) -> list[Bucket]:
    buckets: list[Bucket] = []
    for role in sorted(part.files):
        state = safetensors.torch.load(storage.read_bytes(check_content(directory, part.files[role])))
        buckets.extend(pack(state, bucket_bytes=STORED_BUCKET_BYTES))
    return buckets
