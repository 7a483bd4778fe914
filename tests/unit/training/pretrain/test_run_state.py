"""What a checkpoint keeps of a run, and that a resume reads the same."""

import json
import math

import pytest

from training.pretrain.divergence import DivergenceSettings
from training.pretrain.run_state import RunState

SETTINGS = DivergenceSettings(not_finite="rewind")

# As checkpoints on disk have it, with the keys that the job and the store add.
ON_DISK = """{
  "heldout_loss": 5.25, "model": "\\"tiny\\" in fp32", "tokens_fingerprint": "tokens-1", "zero_stage": 2,
  "sample_offset": 24, "train_loss": 5.5, "seconds": {"train": 8.0, "data": 0.5, "checkpoints": 1.25},
  "watch": {"losses": [6.0, 5.5], "events": 1, "history": ["step 3: the training loss is nan; rewind"]}
}"""


def state_at_step_7() -> RunState:
    state = RunState.new(SETTINGS)
    state.step, state.sample_offset, state.train_loss = 7, 16, 5.125
    state.seconds = {"train": 3.0, "data": 0.25, "checkpoints": 0.0}
    for loss in (6.0, 5.5, 5.125):
        state.watch.accept(loss)
    verdict = state.watch.judge(math.nan)
    assert verdict is not None
    state.watch.remember(2, verdict)
    return state


def test_a_run_that_resumes_has_the_state_that_was_saved() -> None:
    state = state_at_step_7()
    again = RunState.from_dict(7, json.loads(json.dumps(state.to_dict())), SETTINGS)
    assert (again.step, again.sample_offset, again.train_loss) == (7, 16, 5.125)
    assert again.seconds == state.seconds
    assert again.watch.state() == state.watch.state()
    assert again.watch.events == 1
    assert again.to_dict() == state.to_dict()


def test_a_checkpoint_on_disk_is_read_and_would_be_written_with_the_same_keys() -> None:
    saved = json.loads(ON_DISK)
    state = RunState.from_dict(40, saved, SETTINGS)
    assert (state.step, state.sample_offset, state.train_loss) == (40, 24, 5.5)
    assert state.seconds["checkpoints"] == 1.25
    assert list(state.watch.losses) == [6.0, 5.5]
    assert state.watch.history == ["step 3: the training loss is nan; rewind"]
    assert state.to_dict() == {name: saved[name] for name in ("sample_offset", "train_loss", "seconds", "watch")}


@pytest.mark.parametrize("missing", ["sample_offset", "train_loss", "seconds", "watch"])
def test_a_checkpoint_without_one_of_the_keys_is_not_taken_for_a_new_run(missing: str) -> None:
    saved = json.loads(ON_DISK)
    del saved[missing]
    with pytest.raises(KeyError, match=missing):
        RunState.from_dict(40, saved, SETTINGS)


def test_a_run_that_goes_back_judges_by_the_old_losses_and_counts_its_events_on() -> None:
    state, earlier = state_at_step_7(), json.loads(ON_DISK)
    state.go_back(4, earlier, sample_offset=48)
    assert (state.step, state.sample_offset) == (4, 48)
    assert list(state.watch.losses) == [6.0, 5.5]
    assert state.watch.events == 1
    assert state.watch.history == ["step 2: the training loss is nan; rewind"]
    assert state.seconds == {"train": 3.0, "data": 0.25, "checkpoints": 0.0}


def test_a_resume_after_going_back_lands_where_the_run_went_back_to() -> None:
    state, earlier = state_at_step_7(), json.loads(ON_DISK)
    state.go_back(4, earlier, sample_offset=48)
    resumed = RunState.from_dict(4, {**earlier, **state.rewound_dict()}, SETTINGS)
    assert (resumed.step, resumed.sample_offset) == (4, 48)
    assert resumed.watch.state() == state.watch.state()
    assert resumed.train_loss == 5.5
