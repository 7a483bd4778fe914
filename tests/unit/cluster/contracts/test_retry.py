"""Back-off: passing errors are waited out, lasting ones come at once, and waits grow and differ."""

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.contracts.errors import CorruptArtifact, InputError, StorageError
from cluster.contracts.retry import Backoff, retrying, retrying_as_here

QUICK = Backoff(attempts=4, first_wait_s=0.001)


class Store:
    """Fails as it is told, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "content"


def test_a_store_that_comes_back_is_waited_for() -> None:
    store = Store(OSError("503 slow down"), StorageError("no route"), TimeoutError())
    assert retrying(store, QUICK) == "content"
    assert store.calls == 4


def test_a_store_that_stays_away_is_an_error_after_all_attempts() -> None:
    store = Store(*[OSError(f"{n}") for n in range(10)])
    with pytest.raises(OSError, match="3"):
        retrying(store, QUICK)
    assert store.calls == 4


def test_the_error_says_what_was_asked_and_how_often() -> None:
    store = Store(*[OSError("503 slow down")] * 10)
    with pytest.raises(StorageError, match=r"can't list s3://b/x: 503 slow down \(4 attempts in 0 s\)"):
        retrying(store, QUICK, asked="list s3://b/x")


def test_attempts_do_not_multiply_where_one_retrying_operation_calls_another() -> None:
    store = Store(*[OSError(f"{n}") for n in range(100)])
    with pytest.raises(OSError, match="3"):
        retrying(lambda: retrying(store, QUICK, asked="read s3://b/x"), QUICK)
    assert store.calls == 4
    assert retrying(Store(OSError("once")), QUICK) == "content", "and the next one is tried again"


def test_attempts_do_not_multiply_in_threads_of_a_retrying_operation() -> None:
    store = Store(*[OSError(f"{n}") for n in range(100)])

    def in_a_thread() -> list[str]:
        with ThreadPoolExecutor(1) as pool:
            return list(pool.map(retrying_as_here(lambda _: retrying(store, QUICK)), [0]))

    with pytest.raises(OSError, match="3"):
        retrying(in_a_thread, QUICK)
    assert store.calls == 4
    store = Store(OSError("once"))
    assert in_a_thread() == ["content"], "elsewhere a thread tries again by itself"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(),
        PermissionError(),
        OSError("When listing objects in bucket 'x': AWS Error ACCESS_DENIED during ListObjectsV2 operation"),
        StorageError("can't resolve 's3://x': AWS Error NO_SUCH_BUCKET during HeadBucket operation"),
        OSError(errno.ENOSPC, "no space left"),
        CorruptArtifact("x"),
        InputError("x"),
        KeyError("bug"),
    ],
)
def test_what_will_not_pass_is_raised_at_once(error: Exception) -> None:
    store = Store(error, error)
    with pytest.raises(type(error)):
        retrying(store, QUICK)
    assert store.calls == 1


def test_waits_double_up_to_the_longest_and_are_spread() -> None:
    backoff = Backoff(first_wait_s=2, max_wait_s=10)
    for attempt, longest in ((1, 2), (2, 4), (3, 8), (4, 10), (9, 10)):
        waits = [backoff.wait_s(attempt) for _ in range(200)]
        assert longest / 2 <= min(waits) < 0.6 * longest
        assert 0.9 * longest < max(waits) <= longest
