"""TensorBoard's files as TensorBoard would read them; a tracker that fails; trackers that are not installed."""

import importlib.util
import re
import struct
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from cluster.contracts.errors import InputError
from training.metrics.trackers import (
    TENSORBOARD_DIRECTORY,
    BackgroundSender,
    Trackers,
    check_trackers,
    gauge_of,
    open_trackers,
)


def scalars(directory: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard shows: later files after earlier ones, each dropping the steps it was told to purge."""
    shown: dict[tuple[str, int], float] = {}
    for file in sorted(directory.iterdir()):
        content, position = file.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            event = Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length
            if event.session_log.status:  # START: what follows replaces these steps
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            shown.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
    return shown


def opened(output: Path, *, first_step: int) -> Trackers:
    return open_trackers(
        ["tensorboard"], stage="base", run_id="r", output=str(output), scratch=output, first_step=first_step,
        config={}, note=lambda message: pytest.fail(message),
    )  # fmt: skip


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    first = opened(tmp_path, first_step=0)
    for step in range(4):
        first.log(step, {"loss": 4.0 - step, "event": "a word", "heldout_loss/web": None})
    first.close()
    (old,) = (tmp_path / TENSORBOARD_DIRECTORY).iterdir()
    old.rename(old.with_name("events.out.tfevents.0000000000.earlier"))  # names are times, to the second
    resumed = opened(tmp_path, first_step=2)
    resumed.log(2, {"loss": 20.0})
    resumed.close()
    found = scalars(tmp_path / TENSORBOARD_DIRECTORY)
    assert found == {("loss", 0): 4.0, ("loss", 1): 3.0, ("loss", 2): 20.0}


def test_tensorboard_shows_no_more_of_what_a_run_went_back_behind(tmp_path: Path) -> None:
    trackers = opened(tmp_path, first_step=0)
    for step in range(4):
        trackers.log(step, {"loss": 4.0 - step})
    trackers.rewind(2)  # within a second of opening, after which files are named
    trackers.log(2, {"loss": 20.0})
    trackers.rewind(0)
    trackers.log(0, {"loss": 40.0})
    trackers.close()
    assert scalars(tmp_path / TENSORBOARD_DIRECTORY) == {("loss", 0): 40.0}
    assert len(list((tmp_path / TENSORBOARD_DIRECTORY).iterdir())) == 3


class Failing:
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        raise ConnectionError("the server is gone")

    def rewind(self, step: int) -> None:
        raise AssertionError("it was dropped")

    def close(self) -> None:
        raise AssertionError("it was dropped")


class Keeping:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.logged.append((step, dict(figures)))

    def rewind(self, step: int) -> None:
        self.logged.append((-2, {}))

    def close(self) -> None:
        self.logged.append((-1, {}))


def test_tracker_that_fails_is_dropped_with_a_note_and_the_others_go_on() -> None:
    notes: list[str] = []
    trackers = Trackers({"wandb": Failing(), "kept": (kept := Keeping())}, notes.append)
    for step in range(3):
        trackers.log(step, {"loss": 1.0})
    trackers.rewind(1)
    trackers.close()
    trackers.close()
    assert [step for step, _ in kept.logged] == [0, 1, 2, -2, -1]
    (note,) = notes
    assert note.startswith("wandb takes no more metrics (ConnectionError: the server is gone)")


def test_tracker_that_is_not_installed_is_refused_before_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    check_trackers(["tensorboard"])
    with pytest.raises(InputError, match=r"trackers: wandb can't be imported here; pip install 'raymill\[tracking\]'"):
        check_trackers(["tensorboard", "wandb"])


def test_rows_are_sent_in_order_behind_training_and_all_of_them_by_the_end() -> None:
    sent: list[list[int]] = []
    may_send = threading.Event()

    def send(rows: list[int]) -> None:
        assert may_send.wait(10)
        sent.append(rows)

    sender = BackgroundSender(send, most_waiting=50)
    for number in range(50):  # returns, though nothing can be sent yet
        sender.put(number)
    may_send.set()
    for number in range(50, 200):
        sender.put(number)
    sender.close()
    assert [number for rows in sent for number in rows] == list(range(200))
    assert len(sent) < 200  # those that waited went together


def test_training_waits_for_a_server_that_is_too_far_behind() -> None:
    may_send, put = threading.Event(), list[int]()
    sender = BackgroundSender(lambda rows: may_send.wait(10), most_waiting=3)

    def fill() -> None:
        for number in range(20):
            sender.put(number)
            put.append(number)

    filler = threading.Thread(target=fill)
    filler.start()
    filler.join(0.2)
    assert 3 <= len(put) <= 6  # three wait, up to three are being sent
    may_send.set()
    filler.join(10)
    sender.close()
    assert len(put) == 20


def test_error_of_sending_comes_up_at_the_next_row_even_one_that_waits_for_room() -> None:
    may_fail = threading.Event()

    def send(rows: list[int]) -> None:
        assert may_fail.wait(10)
        raise ConnectionError("the server is gone")

    sender = BackgroundSender(send, most_waiting=1)
    threading.Timer(0.05, may_fail.set).start()
    with pytest.raises(ConnectionError, match="the server is gone"):
        any(map(sender.put, range(3)))  # `put` returns nothing, so all three
    with pytest.raises(ConnectionError, match="the server is gone"):
        sender.close()


@pytest.mark.parametrize(
    ("figure", "gauge"),
    [
        ("loss", ("raymill_loss", "")),
        ("heldout_loss/web-00000.warc.gz", ("raymill_heldout_loss", "web-00000.warc.gz")),
        ("heldout_loss/part=1 (a)/b", ("raymill_heldout_loss", "part=1 (a)/b")),
        ("time: data-wait", ("raymill_time__data_wait", "")),
    ],
)
def test_gauges_have_names_that_prometheus_takes_and_sources_as_a_tag(figure: str, gauge: tuple[str, str]) -> None:
    assert gauge_of(figure) == gauge
    assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", gauge[0])
