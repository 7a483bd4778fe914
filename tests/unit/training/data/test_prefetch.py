"""Prefetching: nothing lost, nothing reordered, errors where they belong, no thread left behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from training.data.prefetch import Prefetcher


def prefetch_threads() -> int:
    return sum(thread.name == "raymill-prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_items_come_complete_and_in_order(depth: int) -> None:
    with Prefetcher(range(100), depth=depth) as numbers:
        assert list(numbers) == list(range(100))
        assert list(numbers) == []  # and it stays exhausted


def test_no_more_than_depth_items_are_made_ahead() -> None:
    made: list[int] = []
    enough = threading.Event()

    def source() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            if number == 3:
                enough.set()
            yield number

    with Prefetcher(source(), depth=3) as numbers:
        assert enough.wait(10)  # three are queued and the fourth is in the producer's hand
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]
        assert next(numbers) == 0


def test_an_error_of_the_source_is_raised_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("shard 7 is gone")

    with Prefetcher(source()) as numbers:
        assert [next(numbers), next(numbers)] == [1, 2]
        with pytest.raises(RuntimeError, match="shard 7 is gone"):
            next(numbers)
        with pytest.raises(StopIteration):
            next(numbers)
    assert prefetch_threads() == 0


def test_leaving_early_stops_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with Prefetcher(endless()) as zeros:
        assert next(zeros) == 0
    assert closed.is_set()
    assert prefetch_threads() == 0
    zeros.close()  # once more is harmless


def test_a_dropped_prefetcher_leaves_no_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    zeros = Prefetcher(endless())
    assert next(zeros) == 0
    thread = zeros._thread
    del zeros
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_waiting_is_counted_only_where_the_source_is_slower() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    with Prefetcher(slow()) as numbers:
        assert list(numbers) == [0, 1, 2]
        assert numbers.wait_s >= 0.1
    with Prefetcher(range(3), depth=3) as numbers:
        time.sleep(0.05)
        assert list(numbers) == [0, 1, 2]
        assert numbers.wait_s < 0.05


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="depth 0"):
        Prefetcher([1], depth=0)
