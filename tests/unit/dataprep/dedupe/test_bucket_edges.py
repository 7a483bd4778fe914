"""Buckets to edges: the same components as all pairs of equal keys."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dataprep.dedupe.bucket_edges import MAX_LEADERS, bucket_edges, checked_edges, equal_edges


def components(edges: np.ndarray, num_nodes: int) -> np.ndarray:
    """The lowest node of each node's component, by scipy."""
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    _, labels = connected_components(graph, directed=False)
    lowest = np.full(labels.max() + 1, num_nodes)
    np.minimum.at(lowest, labels, np.arange(num_nodes))
    return lowest[labels]


def all_pairs(keys: np.ndarray, members: np.ndarray) -> np.ndarray:
    return members[np.argwhere(keys[:, None] == keys)]


def test_each_bucket_is_a_star_around_its_lowest_member() -> None:
    keys = np.array([7, 5, 7, 5, 7, 9], np.uint64)
    members = np.array([30, 2, 10, 1, 20, 4])
    assert bucket_edges(keys, members).tolist() == [[1, 2], [10, 20], [10, 30]]


def test_components_equal_those_of_all_pairs_whatever_the_order() -> None:
    rng = np.random.default_rng(1)
    keys, members = rng.integers(0, 60, 200).astype(np.uint64), rng.integers(0, 80, 200)
    expected = components(all_pairs(keys, members), 80)
    for _ in range(3):
        order = rng.permutation(200)
        edges = bucket_edges(keys[order], members[order])
        assert np.array_equal(components(edges, 80), expected)
        assert len(edges) < 200


def test_a_repeated_row_makes_no_loop() -> None:
    assert bucket_edges(np.array([1, 1, 1], np.uint64), np.array([4, 4, 6])).tolist() == [[4, 6]]
    assert bucket_edges(np.array([], np.uint64), np.array([], np.int64)).shape == (0, 2)


def test_128_bit_keys_are_equal_only_in_both_halves() -> None:
    high = np.array([1, 1, 2, 1], np.uint64)
    low = np.array([5, 6, 5, 5], np.uint64)
    assert equal_edges(high, low, np.array([3, 2, 1, 0])).tolist() == [[0, 3]]


def test_a_bucket_with_a_false_middle_falls_into_its_true_groups() -> None:
    a, b = np.array([0, 0], np.uint64), np.array([2**64 - 1, 0], np.uint64)
    near_a, near_b = np.array([5, 0], np.uint64), np.array([2**64 - 1, 9], np.uint64)
    keys, members = np.array([7, 7, 7, 7, 8, 8], np.uint64), np.array([1, 2, 3, 4, 1, 4])
    edges = checked_edges(keys, members, np.array([a, b, near_a, near_b, a, near_b]), most_differing=2)
    assert edges.tolist() == [[1, 3], [2, 4]]


def test_checked_edges_equal_a_slow_twin() -> None:
    rng = np.random.default_rng(4)
    keys, members = rng.integers(0, 8, 300).astype(np.uint64), rng.permutation(300)
    sketches = (rng.integers(0, 2, (300, 2)) * 0xFF ^ rng.integers(0, 2, (300, 2)) << 40).astype(np.uint64)
    expected = []
    for key in range(8):
        leaders: list[int] = []
        for row in sorted(np.flatnonzero(keys == key), key=lambda row: members[row]):
            like = [x for x in leaders if sum(int(v).bit_count() for v in sketches[x] ^ sketches[row]) <= 3]
            if like:
                expected.append([members[like[0]], members[row]])
            elif len(leaders) < MAX_LEADERS:
                leaders.append(row)
    assert checked_edges(keys, members, sketches, most_differing=3).tolist() == expected
