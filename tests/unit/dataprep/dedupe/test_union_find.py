"""Union-find against scipy, and forests against the graphs they stand for."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dataprep.dedupe.union_find import UnionFind, label_bytes, spanning_forest


def lowest_of_component(edges: npt.NDArray[np.int64], num_nodes: int) -> npt.NDArray[np.int64]:
    """scipy's components, named by their lowest node."""
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    _, component = connected_components(graph, directed=False)
    lowest = np.full(num_nodes, num_nodes)
    np.minimum.at(lowest, component, np.arange(num_nodes))
    return lowest[component]


@pytest.mark.parametrize("num_edges", [0, 1, 200, 900, 5000])
def test_labels_equal_scipys_components(num_edges: int) -> None:
    rng = np.random.default_rng(num_edges)
    edges = rng.integers(0, 1000, (num_edges, 2))
    find = UnionFind(1000)
    for batch in np.array_split(edges, 7):
        find.add(batch)
    assert (find.group_labels() == lowest_of_component(edges, 1000)).all()


def test_labels_do_not_depend_on_the_order_of_edges() -> None:
    chain = np.stack([np.arange(9999), np.arange(1, 10_000)], axis=1)
    for edges in (chain, chain[::-1], chain[:, ::-1], np.random.default_rng(0).permutation(chain)):
        find = UnionFind(10_000)
        find.add(edges)
        assert not find.group_labels().any()


def test_labels_are_a_copy_and_more_edges_may_follow() -> None:
    find = UnionFind(4)
    find.add(np.array([[3, 2]]))
    first = find.group_labels()
    find.add(np.array([[2, 0]]))
    assert first.tolist() == [0, 1, 2, 2]
    assert find.group_labels().tolist() == [0, 1, 0, 0]


def test_memory_mapped_parents_give_the_same_labels(tmp_path: Path) -> None:
    edges = np.random.default_rng(1).integers(0, 500, (400, 2))
    find = UnionFind(500, memory_map=tmp_path / "parents")
    find.add(edges)
    assert (find.group_labels() == lowest_of_component(edges, 500)).all()
    first = find.group_labels()
    before = first.copy()
    find.add(np.array([[0, n] for n in range(500)]))
    assert not find.group_labels().any()
    assert (first == before).all(), "each labelling has a file of its own"
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {label_bytes(500)} == {2000}


def test_forest_has_the_components_of_its_pairs_and_few_edges() -> None:
    rng = np.random.default_rng(2)
    ids = np.sort(rng.choice(1 << 62, 300, replace=False)) - (1 << 61)
    pairs = ids[rng.integers(0, 300, (2000, 2))]
    pieces = [spanning_forest(piece) for piece in np.array_split(pairs, 5)]
    joined = spanning_forest(np.concatenate(pieces))
    assert joined.tolist() == spanning_forest(pairs).tolist()
    dense = np.searchsorted(ids, joined)
    assert (lowest_of_component(dense, 300) == lowest_of_component(np.searchsorted(ids, pairs), 300)).all()
    assert len(joined) == 300 - len(set(lowest_of_component(dense, 300).tolist()))


def test_forest_of_self_pairs_and_of_nothing_is_empty() -> None:
    assert spanning_forest(np.array([[5, 5], [9, 9]])).shape == (0, 2)
    assert spanning_forest(np.empty((0, 2), np.int64)).shape == (0, 2)


def test_ends_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"edge \[1, 3\] has an end outside 0 to 2"):
        UnionFind(3).add(np.array([[0, 1], [1, 3]]))
    with pytest.raises(ValueError, match=r"edge \[-1, 0\]"):
        UnionFind(3).add(np.array([[-1, 0]]))
    with pytest.raises(ValueError, match="shape"):
        UnionFind(3).add(np.array([0, 1]))


def test_no_nodes() -> None:
    assert UnionFind(0).group_labels().tolist() == []
