"""TensorBoard's files as TensorBoard would read them; a tracker that fails; trackers that are not installed."""

import importlib.util
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from cluster.contracts.errors import InputError
from training.trackers import TENSORBOARD_DIRECTORY, Trackers, check_trackers, open_trackers


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


class Failing:
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        raise ConnectionError("the server is gone")

    def close(self) -> None:
        raise AssertionError("it was dropped")


class Keeping:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.logged.append((step, dict(figures)))

    def close(self) -> None:
        self.logged.append((-1, {}))


def test_tracker_that_fails_is_dropped_with_a_note_and_the_others_go_on() -> None:
    notes: list[str] = []
    trackers = Trackers({"wandb": Failing(), "kept": (kept := Keeping())}, notes.append)
    for step in range(3):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert [step for step, _ in kept.logged] == [0, 1, 2, -1]
    (note,) = notes
    assert note.startswith("wandb takes no more metrics (ConnectionError: the server is gone)")


def test_tracker_that_is_not_installed_is_refused_before_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    check_trackers(["tensorboard"])
    with pytest.raises(InputError, match=r"trackers: wandb can't be imported here; pip install 'raymill\[tracking\]'"):
        check_trackers(["tensorboard", "wandb"])
