"""Makes the next batches while the current one trains: an iterator that a background thread runs ahead of its consumer.

There is one thread, so items come in the order of the source, and whatever the source reads (a sampler over mapped
shards) is read by that thread alone. The two threads do work side by side, since reading pages and copying arrays
release the interpreter's lock.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates over `source`, of which up to `depth` items are made ahead of need. Starts at once.

    An exception of the source is raised where its item would have come, after the items before it. Leave the
    `with` block, call `close` or drop the object to stop the thread; the item under way is finished first.
    Raises `ValueError` for a depth below 1.

    >>> with Prefetcher(make_batches(), depth=2) as batches:
    ...     for batch in batches:
    ...         train(batch)
    """

    def __init__(self, source: Iterable[T], *, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth {depth}; at least 1 item must be made ahead")
        self.wait_s = 0.0  # seconds that the consumer has waited for items, in all
        self._channel: _Channel[T] = _Channel(depth)
        # The thread holds the channel and not this object, which can so be collected while the thread waits.
        self._thread = threading.Thread(
            target=_produce, args=(source, self._channel), name="raymill-prefetch", daemon=True
        )
        self._finalizer = weakref.finalize(self, self._channel.stop)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        started = time.perf_counter()
        try:
            return self._channel.take()
        finally:
            self.wait_s += time.perf_counter() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread, drop what it made ahead, and wait until it has ended. May be called twice."""
        self._finalizer()
        self._thread.join()


class _Channel(Generic[T]):
    """A bounded queue between two threads that either side can end."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = False  # by the consumer
        self._ended = False  # by the producer
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item once there is room; False where the consumer has left."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._depth)
            if self._stopped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None) -> None:
        """No more items come: the source is exhausted, or it raised `error`."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> T:
        """The next item, once it is there. Raises the source's error, once, or `StopIteration`."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._stopped)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def stop(self) -> None:
        """The consumer wants no more."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._error = None
            self._changed.notify_all()


def _produce(source: Iterable[T], channel: _Channel[T]) -> None:
    """What the thread does."""
    error: BaseException | None = None
    items = None
    try:
        items = iter(source)
        for item in items:
            if not channel.put(item):
                break
            del item  # while the next one is made, this one is the consumer's alone
    except BaseException as caught:  # whatever it is, it belongs to the consumer
        error = caught
    finally:
        close = getattr(items, "close", None)  # a generator's own `finally` runs here, not at collection
        if close is not None:
            close()
        channel.end(error)
