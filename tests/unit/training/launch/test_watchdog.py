"""Who hangs, told from what the ranks last published, and by real threads on a real store."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from training.launch import watchdog
from training.launch.watchdog import Heartbeat, Pulse, Watchdog, who_hangs

ALL = frozenset({0, 1, 2})


def test_rank_that_is_behind_is_named_with_its_place() -> None:
    pulses = {0: Pulse(9, "backward"), 1: Pulse(8, "data", "shard.py:7 in read"), 2: Pulse(9, "backward")}
    assert who_hangs(pulses, ALL) == "rank 1 hangs in 'data', at shard.py:7 in read"


def test_rank_that_does_not_answer_is_named_even_where_all_are_alike() -> None:
    pulses = {rank: Pulse(9, "backward") for rank in range(3)}
    assert str(who_hangs(pulses, frozenset({0, 1}))).startswith(
        "rank 2 hangs in 'backward'; its process does not answer"
    )


def test_where_all_wait_alike_none_is_blamed() -> None:
    assert "all 3 ranks wait in 'backward'" in str(who_hangs({rank: Pulse(9, "backward") for rank in range(3)}, ALL))


def test_nobody_is_blamed_while_a_rank_uploads_or_has_finished() -> None:
    pulses = {0: Pulse(9, "checkpoint", resting=True), 1: Pulse(10, "forward"), 2: Pulse(10, "forward")}
    assert who_hangs(pulses, ALL) is None
    assert "rank 0 hangs in 'checkpoint'; its process does not" in str(who_hangs(pulses, frozenset({1, 2})))
    finished = {0: Pulse(9, "export"), 1: Pulse(9, watchdog.FINISHED, resting=True)}
    assert who_hangs(finished, frozenset({0})) is None


def test_watchdogs_of_two_ranks_name_the_one_that_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(seconds=10))
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(watchdog, "_GROUPS_WATCHED", iter([0, 0]))

    def rank(number: int) -> str:
        heard: Future[str] = Future()
        heart = Heartbeat()
        with Watchdog(heart, rank=number, world_size=2, timeout_s=2.0, alarm=heard.set_result):
            heart.beat("data")
            if number == 0:
                heart.beat("backward")  # rank 1 stays behind, in the line below
            return heard.result(timeout=30)

    with ThreadPoolExecutor(2) as ranks:
        for message in ranks.map(rank, range(2)):
            assert "rank 1 hangs in 'data', at " in message
            assert "hang_timeout_s" in message


def test_rank_that_moves_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(seconds=10))
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    heart, alarms = Heartbeat(), []
    with Watchdog(heart, rank=0, world_size=1, timeout_s=0.3, alarm=alarms.append):
        for _ in range(10):
            heart.beat("step")
            time.sleep(0.1)
    assert alarms == []


def test_rank_by_itself_that_stops_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(seconds=10))
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    heard: Future[str] = Future()
    heart = Heartbeat()
    with Watchdog(heart, rank=0, world_size=1, timeout_s=0.3, alarm=heard.set_result):
        heart.beat("reading of step 3")
        message = heard.result(timeout=30)
    assert "rank 0 hangs in 'reading of step 3', at " in message
