"""Connected components of duplicate pairs by union-find.

Tasks reduce their edges to a spanning forest each; the driver adds the forests, one after another, to one union-find
over all documents. The root of a tree is always its lowest index, so labels don't depend on the order of the edges. A
parent never has a greater index than its children, which makes the last pass over all nodes one sequential pass.

Source: Tarjan and van Leeuwen 1984, "Worst-case Analysis of Set Union Algorithms" (path halving).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from dataprep.text.numba_pointers import pointer_to


def spanning_forest(pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[F, 2] the fewest edges with the same components as `pairs` [E, 2]: (lowest id of the component, id), sorted.

    Ids are any int64. The union of the forests of several sets of edges has the components of all those edges.
    """
    nodes, dense = np.unique(pairs, return_inverse=True)
    find = UnionFind(len(nodes))
    find.add(dense.reshape(-1, 2))
    labels = find.group_labels()
    children = np.flatnonzero(labels != np.arange(len(nodes)))
    forest = np.stack([nodes[labels[children]], nodes[children]], axis=1)
    return forest[np.lexsort((forest[:, 1], forest[:, 0]))]


def label_bytes(num_nodes: int) -> int:
    """The bytes that the parents of so many nodes take, and that each array of their labels takes."""
    return num_nodes * _dtype(num_nodes).itemsize


def _dtype(num_nodes: int) -> np.dtype[Any]:
    return np.dtype(np.uint32 if num_nodes <= 1 << 32 else np.uint64)


class UnionFind:
    """The components of nodes 0 to `num_nodes` - 1 under edges that come in batches.

    Each node has one parent of 32 bits (64 where there are more than 2^32 nodes). Parents lie in memory or, where
    `memory_map` names a file to be made, are mapped from it. Of two roots that are joined, the lower one stays.
    """

    def __init__(self, num_nodes: int, memory_map: Path | None = None) -> None:
        if num_nodes < 0:
            raise ValueError(f"num_nodes must not be negative; got {num_nodes}")
        self.num_nodes = num_nodes
        self._dtype = _dtype(num_nodes)
        self._memory_map = memory_map
        self._num_labellings = 0
        self._parents = self._new_array(memory_map)
        _fill_range(self._parents)

    def add(self, edges: npt.NDArray[np.int64]) -> None:
        """Join the ends of `edges` [E, 2]. Raises `ValueError` for an end outside 0 to num_nodes - 1."""
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise ValueError(f"edges must have the shape [E, 2]; got {edges.shape}")
        flat = np.ascontiguousarray(edges, np.int64).reshape(-1).view()
        flat.flags.writeable = False
        failed = _union(self._parents, flat)
        if failed >= 0:
            raise ValueError(f"edge {edges[failed].tolist()} has an end outside 0 to {self.num_nodes - 1}")

    def group_labels(self) -> npt.NDArray[Any]:
        """[num_nodes] the lowest index of each node's component, as a new array.

        Where the parents are mapped from a file, so are the labels: from `<memory_map>.labels-1`, at the next call
        `-2`.
        """
        _compress(self._parents)
        path = None
        if self._memory_map is not None:
            self._num_labellings += 1
            path = self._memory_map.with_name(f"{self._memory_map.name}.labels-{self._num_labellings}")
        labels = self._new_array(path)
        labels[:] = self._parents
        return labels

    def _new_array(self, path: Path | None) -> npt.NDArray[Any]:
        if path is None or self.num_nodes == 0:
            return np.empty(self.num_nodes, self._dtype)
        mapped = np.memmap(path, self._dtype, mode="w+", shape=(self.num_nodes,))
        return np.asarray(mapped)


@numba.njit(cache=True)
def _fill_range(parents):
    for node in range(parents.size):
        parents[node] = node


@numba.njit(cache=True)
def _union(parents_array, ends_array):
    """Join all edges; returns the number of the first one out of range (those before it are joined), or -1."""
    parents, ends = pointer_to(parents_array), pointer_to(ends_array)
    num_nodes = parents_array.size
    for edge in range(ends_array.size // 2):
        a, b = ends[2 * edge], ends[2 * edge + 1]
        if a < 0 or b < 0 or a >= num_nodes or b >= num_nodes:
            return edge
        a, b = _root(parents, a), _root(parents, b)
        if a < b:
            parents[b] = a
        elif b < a:
            parents[a] = b
    return -1


@numba.njit(cache=True)
def _root(parents, node):
    """The root of a node's tree; every other node on the way is hung under its grandparent (path halving)."""
    parent = np.int64(parents[node])
    while parent != node:
        grandparent = np.int64(parents[parent])
        parents[node] = grandparent
        node = grandparent
        parent = np.int64(parents[node])
    return node


@numba.njit(cache=True)
def _compress(parents):
    """Hang every node under its root; parents come before their children, so one pass does."""
    for node in range(parents.size):
        parents[node] = parents[parents[node]]
