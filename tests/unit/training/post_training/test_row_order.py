from collections import Counter

from training.post_training.row_order import row_order

LENGTHS = [(7 * row) % 31 for row in range(50)]


def test_whole_batches_and_every_row_as_often_as_the_epochs_say() -> None:
    order = row_order(LENGTHS, epochs=3, global_batch_size=8, seed=0)
    assert len(order) == 152
    counts = Counter(order)
    assert set(counts) == set(range(50))
    assert sorted(counts.values()) == [3] * 48 + [4] * 2  # of which the last batch was filled up


def test_sixty_rows_at_batch_32_are_all_trained() -> None:
    order = row_order(list(range(60)), epochs=1, global_batch_size=32, seed=0)
    assert len(order) == 64
    assert set(order) == set(range(60))


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


def test_less_than_a_batch_is_filled_up_to_one() -> None:
    order = row_order(LENGTHS, epochs=1, global_batch_size=64, seed=0)
    assert len(order) == 64
    assert set(Counter(order).values()) == {1, 2}
    assert len(row_order(LENGTHS, epochs=0.001, global_batch_size=4, seed=0)) == 4
