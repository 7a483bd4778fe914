"""Bar 6: connected components of 100 million edges over 60 million nodes, against scipy.

Edges come in batches, as forests do; making them is not counted. Each measurement is a process of its own, so that its
peak memory is its own: `python -m benchmarks.dataprep.graph JOB` with a JSON job prints a JSON answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure, ratio

_BATCH_EDGES = 2_000_000
_NODES_PER_EDGE = 0.6


def components(*, quick: bool) -> list[Figure]:
    """Seconds, memory, equality with scipy, growth, and the cost of mapping the parents from disk."""
    sizes = (1_000_000, 10_000_000) if quick else (10_000_000, 100_000_000)
    nodes = int(sizes[1] * _NODES_PER_EDGE)
    small, large = (_measure("union_find", edges, nodes) for edges in sizes)
    mapped = _measure("union_find", sizes[1], nodes, memory_map=True)
    peer = _measure("scipy", sizes[1], nodes) if find_spec("scipy") is not None else None
    shape = f"{sizes[1]:,} random edges over {nodes:,} nodes"
    same = None if peer is None else float(peer["labels"] == large["labels"] == mapped["labels"])
    growth = large["cpu_s"] / small["cpu_s"] / (sizes[1] / sizes[0])
    note = f"{shape}; {large['components']:,} components; one thread, wall {large['wall_s']:.1f} s; the peer is scipy"
    growth_note = f"{small['cpu_s']:.2f} s for {sizes[0]:,} edges over the same nodes"
    slowdown = ratio(mapped["cpu_s"], large["cpu_s"])
    return [
        Figure("6a", "components", "CPU-s", large["cpu_s"], 20, at_most=True, ours=large["cpu_s"],
               peer=peer and peer["cpu_s"], note=note),
        Figure("6b", "components, peak memory", "MB", large["peak_mb"], 1000, at_most=True, ours=large["peak_mb"],
               peer=peer and peer["peak_mb"], note="of the whole process"),
        Figure("6c", "the same components as scipy, mapped or not", "1 = yes", same, 1),
        Figure("6d", "time per edge at ten times the edges", "times", growth, 1.05, at_most=True, note=growth_note),
        Figure("6e", "slowdown with parents mapped from disk", "times", slowdown, 10, at_most=True,
               ours=mapped["cpu_s"], peer=large["cpu_s"], note="than in memory; the page cache holds the file"),
    ]  # fmt: skip


def _measure(method: str, num_edges: int, num_nodes: int, *, memory_map: bool = False) -> dict[str, Any]:
    job = json.dumps({"method": method, "num_edges": num_edges, "num_nodes": num_nodes, "memory_map": memory_map})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __name__, job], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _batches(num_edges: int, num_nodes: int) -> Iterator[npt.NDArray[np.int64]]:
    for number in range(-(-num_edges // _BATCH_EDGES)):
        count = min(_BATCH_EDGES, num_edges - number * _BATCH_EDGES)
        yield np.random.default_rng(number).integers(0, num_nodes, (count, 2))


def _union_find(num_edges: int, num_nodes: int, memory_map: Path | None) -> dict[str, Any]:
    from dataprep.dedupe.union_find import UnionFind

    warm = UnionFind(2)
    warm.add(np.array([[0, 1]]))
    warm.group_labels()
    clock = _Clock()
    with clock:
        find = UnionFind(num_nodes, memory_map)
    for edges in _batches(num_edges, num_nodes):
        with clock:
            find.add(edges)
    with clock:
        labels = find.group_labels()
    return {**clock.answer(), **_identity(labels)}


def _scipy(num_edges: int, num_nodes: int) -> dict[str, Any]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [edges.astype(np.int32) for edges in _batches(num_edges, num_nodes)]
    a, b = (np.concatenate([edges[:, side] for edges in ends]) for side in (0, 1))
    del ends
    clock = _Clock()
    with clock:
        graph = coo_array((np.ones(num_edges, np.uint8), (a, b)), shape=(num_nodes, num_nodes))
        del a, b
        _, component = connected_components(graph.tocsr(), directed=False)
    answer = clock.answer()
    lowest = np.empty(num_nodes, np.int64)
    lowest[component[::-1]] = np.arange(num_nodes)[::-1]  # the last written is the lowest
    return {**answer, **_identity(lowest[component])}


def _identity(labels: npt.NDArray[Any]) -> dict[str, Any]:
    """The number of components, and a hash of every node's lowest fellow."""
    digest, components = hashlib.sha256(), 0
    for start in range(0, len(labels), _BATCH_EDGES):
        piece = labels[start : start + _BATCH_EDGES].astype(np.int64)
        digest.update(piece.tobytes())
        components += int((piece == np.arange(start, start + len(piece))).sum())
    return {"labels": digest.hexdigest(), "components": components}


class _Clock:
    """Adds up the wall and CPU seconds of `with` blocks."""

    def __init__(self) -> None:
        self._wall_s = self._cpu_s = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self._wall_s += time.perf_counter() - self._started[0]
        self._cpu_s += time.process_time() - self._started[1]

    def answer(self) -> dict[str, Any]:
        """The sums, and the peak memory of the process so far.

        Not `getrusage`'s, which begins with what the process that started this one had at that moment.
        """
        (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peak_mb = int(peak.split()[1]) * 1024 / 1e6
        return {"wall_s": self._wall_s, "cpu_s": self._cpu_s, "peak_mb": peak_mb}


def main() -> None:
    """One measurement."""
    job = json.loads(sys.argv[1])
    size = job["num_edges"], job["num_nodes"]
    if job["method"] == "scipy":
        answer = _scipy(*size)
    elif job["memory_map"]:
        with tempfile.TemporaryDirectory() as scratch:
            answer = _union_find(*size, Path(scratch) / "parents")
    else:
        answer = _union_find(*size, None)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
