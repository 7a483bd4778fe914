"""Checkpoints written in a thread: one under way, errors told, whole or absent, no parts of another attempt."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from cluster.contracts.errors import StorageError
from training.checkpoint import async_writer as async_checkpoint
from training.checkpoint.async_writer import CheckpointWriter
from training.checkpoint.store import CheckpointStore, FileWriter


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "checkpoints"))


def of(content: str) -> Callable[[], dict[str, FileWriter]]:
    return lambda: {"weights": lambda sink: sink.write(content.encode())}


def slowly(gate: threading.Event, content: str = "slow") -> Callable[[], dict[str, FileWriter]]:
    def write(sink: BinaryIO) -> None:
        assert gate.wait(10)
        sink.write(content.encode())

    return lambda: {"weights": write}


def read(store: CheckpointStore, step: int, directory: Path) -> str:
    store.load(step, directory)
    return (directory / "weights").read_text()


def test_training_goes_on_while_a_checkpoint_is_written(store: CheckpointStore, tmp_path: Path) -> None:
    gate = threading.Event()
    with CheckpointWriter(store) as writer:
        stall_s = writer.save(10, slowly(gate), state={"samples": 80})
        assert store.steps() == []
        gate.set()
    assert stall_s < 1
    assert store.steps() == [10]
    assert store.load(10, tmp_path / "loaded").state == {"samples": 80}
    assert (tmp_path / "loaded" / "weights").read_text() == "slow"


def test_the_next_checkpoint_waits_for_the_one_before_and_the_wait_is_stall(store: CheckpointStore) -> None:
    gate = threading.Event()
    with CheckpointWriter(store) as writer:
        writer.save(10, slowly(gate))
        threading.Timer(0.2, gate.set).start()
        assert writer.save(20, of("x")) > 0.15
        assert 10 in store.steps()
    assert store.steps() == [10, 20]


def test_files_are_taken_only_once_those_before_are_written(store: CheckpointStore, tmp_path: Path) -> None:
    """So a snapshot may lie in the memory of the one before."""
    memory = bytearray(b"first")
    gate = threading.Event()

    def take(content: bytes) -> dict[str, FileWriter]:
        memory[:] = content

        def write(sink: BinaryIO) -> None:
            assert gate.wait(10)
            sink.write(memory)

        return {"weights": write}

    with CheckpointWriter(store) as writer:
        writer.save(10, lambda: take(b"first"))
        threading.Timer(0.1, gate.set).start()
        writer.save(20, lambda: take(b"after"))
    assert read(store, 10, tmp_path / "10") == "first"
    assert read(store, 20, tmp_path / "20") == "after"


def test_synchronous_checkpoints_are_there_when_save_returns(store: CheckpointStore) -> None:
    with CheckpointWriter(store, asynchronous=False) as writer:
        writer.save(10, of("x"))
        assert store.steps() == [10]


def test_an_error_in_the_thread_is_raised_by_the_next_call_and_once(store: CheckpointStore) -> None:
    def fail(sink: BinaryIO) -> None:
        raise OSError("disk full")

    with CheckpointWriter(store) as writer:
        writer.save(10, lambda: {"weights": fail})
        with pytest.raises(OSError, match="disk full"):
            writer.save(20, of("x"))
        writer.save(20, of("x"))
    assert store.steps() == [20]
    with pytest.raises(OSError, match="disk full"), CheckpointWriter(store) as writer:
        writer.save(30, lambda: {"weights": fail})


def test_leaving_on_an_exception_ends_the_checkpoint_under_way(store: CheckpointStore) -> None:
    gate = threading.Event()
    threading.Timer(0.1, gate.set).start()

    def train() -> None:
        with CheckpointWriter(store) as writer:
            writer.save(10, slowly(gate))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        train()
    assert store.steps() == [10]


def test_rank_zero_waits_for_the_other_ranks_parts(store: CheckpointStore, tmp_path: Path) -> None:
    with CheckpointWriter(store, world_size=2, attempt="now") as main:
        main.save(10, of("of rank 0"))
        time.sleep(0.1)
        assert store.steps() == []
        with CheckpointWriter(store, rank=1, world_size=2, attempt="now") as other:
            other.save(10, of("of rank 1"))
        main.wait()
    assert store.load(10, tmp_path / "rank1", ranks=(1,)).world_size == 2
    assert (tmp_path / "rank1" / "weights").read_text() == "of rank 1"


def test_a_part_of_an_earlier_attempt_is_never_taken_for_this_ones(store: CheckpointStore) -> None:
    with CheckpointWriter(store, rank=1, world_size=2, attempt="before") as killed:
        killed.save(10, of("of an attempt that died"))
    with (
        pytest.raises(StorageError, match="step 10: no files came from rank 1 of 2"),
        CheckpointWriter(store, world_size=2, attempt="now", parts_timeout_s=0.2) as writer,
    ):
        writer.save(10, of("of rank 0"))
    assert store.steps() == []


def test_a_part_from_before_the_run_went_back_is_never_taken_for_a_new_one(
    store: CheckpointStore, tmp_path: Path
) -> None:
    with (
        CheckpointWriter(store, world_size=2, attempt="now") as main,
        CheckpointWriter(store, rank=1, world_size=2, attempt="now") as other,
    ):
        for content in ("first", "after going back"):
            main.save(10, of(content))
            time.sleep(0.1)  # rank 1 is late, and its part of the first time is there
            other.save(10, of(content))
            main.wait()
    store.load(10, tmp_path / "rank1", ranks=(1,))
    assert (tmp_path / "rank1" / "weights").read_text() == "after going back"


def test_a_rank_that_is_gone_is_not_waited_for_once_training_failed(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_checkpoint, "FAILED_TIMEOUT_S", 0.1)
    started = time.monotonic()

    def train() -> None:
        with CheckpointWriter(store, world_size=2) as writer:
            writer.save(10, of("of rank 0"))
            raise RuntimeError("peer is gone")

    with pytest.raises(RuntimeError, match="peer is gone"):
        train()
    assert time.monotonic() - started < 5
    assert store.steps() == []


def two_ranks_steps(store: CheckpointStore, steps: tuple[int, ...]) -> None:
    """Checkpoints of two ranks, as their threads write them."""
    with (
        CheckpointWriter(store, world_size=2, attempt="now") as main,
        CheckpointWriter(store, rank=1, world_size=2, attempt="now") as other,
    ):
        for step in steps:
            other.save(step, of(f"rank 1 at {step}"))
            main.save(step, of(f"rank 0 at {step}"))


def truncate_rank_file(store: CheckpointStore, step: int) -> None:
    (file,) = Path(store.uri).glob(f"step-{step:08d}/rank-00001.now-*")
    os.truncate(file, 3)


def remove_step_marker(store: CheckpointStore, step: int) -> None:
    (Path(store.uri) / "_committed" / f"step-{step:08d}.json").unlink()


@pytest.mark.parametrize(
    ("damage", "messages"),
    [(truncate_rank_file, ["checkpoint of step 20 is not whole"]), (remove_step_marker, [])],
)
def test_a_damaged_step_gives_way_to_the_one_before(
    store: CheckpointStore, tmp_path: Path, damage: Callable[[CheckpointStore, int], None], messages: list[str]
) -> None:
    """A truncated file of rank 1 is told; a step without its marker has never been one."""
    two_ranks_steps(store, (10, 20))
    damage(store, 20)
    notes: list[str] = []
    found = store.restore(tmp_path / "restored", ranks=lambda _: [1], note=notes.append)
    assert found is not None
    assert (found.step, found.world_size) == (10, 2)
    assert (tmp_path / "restored" / "weights").read_text() == "rank 1 at 10"
    assert [note.split(" (")[0] for note in notes] == messages
    two_ranks_steps(store, (20, 30))  # reached again
    assert read(store, 20, tmp_path / "again") == "rank 0 at 20"
