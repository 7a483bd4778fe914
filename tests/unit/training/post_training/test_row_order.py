from collections import Counter

from training.post_training.row_order import row_order

LENGTHS = [(7 * row) % 31 for row in range(50)]


def test_whole_batches_and_every_row_as_often_as_the_epochs_say() -> None:
    order = row_order(LENGTHS, epochs=3, global_batch_size=8, seed=0)
    assert len(order) == 50 * 3 // 8 * 8
    counts = Counter(order)
    assert set(counts) == set(range(50))
    assert set(counts.values()) <= {2, 3}


def test_a_batch_is_sorted_by_length() -> None:
    order = row_order(LENGTHS, epochs=2, global_batch_size=10, seed=3)
    for start in range(0, len(order), 10):
        lengths = [LENGTHS[row] for row in order[start : start + 10]]
        assert lengths == sorted(lengths)


def test_a_window_of_batches_holds_the_same_rows_in_batches_of_like_length() -> None:
    plain = row_order(LENGTHS, epochs=2, global_batch_size=5, seed=3)
    grouped = row_order(LENGTHS, epochs=2, global_batch_size=5, seed=3, window_batches=10)
    for start in range(0, 100, 50):
        assert sorted(plain[start : start + 50]) == sorted(grouped[start : start + 50])

    def padding(order: list[int]) -> int:
        batches = [[LENGTHS[row] for row in order[i : i + 5]] for i in range(0, len(order), 5)]
        return sum(5 * max(batch) - sum(batch) for batch in batches)

    assert padding(grouped) < padding(plain) / 3


def test_the_seed_decides() -> None:
    first, again, other = (row_order(LENGTHS, epochs=1, global_batch_size=5, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_less_than_a_batch_is_none() -> None:
    assert row_order(LENGTHS, epochs=1, global_batch_size=64, seed=0) == []
    assert len(row_order(LENGTHS, epochs=1.5, global_batch_size=64, seed=0)) == 64
