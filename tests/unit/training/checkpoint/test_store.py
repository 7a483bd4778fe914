"""Checkpoints are whole or absent; a torn or corrupt one gives way to the one before it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cluster.contracts import storage
from cluster.contracts.errors import CorruptArtifact, StageFailed
from training.checkpoint.store import CheckpointStore


def write(directory: Path, **files: str) -> Path:
    (directory / "engine").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / "engine" / name).write_text(content)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Steps 10 and 20 of one rank."""
    store = CheckpointStore(str(tmp_path / "checkpoints"), keep=2)
    for step in (10, 20):
        store.save(step, write(tmp_path / "local", weights=f"weights {step}"), state={"samples": step * 8})
    return store


def only_file(store: CheckpointStore, step: int) -> Path:
    checkpoint = next(c for c in store._intact(lambda message: None) if c.step == step)
    return storage.local_path(storage.join(store.uri, checkpoint.files[0].written.name))


def test_newest_checkpoint_comes_back_with_its_files_and_state(store: CheckpointStore, tmp_path: Path) -> None:
    found = store.restore(tmp_path / "restored")
    assert found is not None
    assert (found.step, found.world_size, found.state) == (20, 1, {"samples": 160})
    assert (tmp_path / "restored" / "engine" / "weights").read_text() == "weights 20"


def test_an_empty_store_has_none(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "nothing"))
    assert store.latest() is None
    assert store.restore(tmp_path / "restored") is None
    store.clear()


def test_torn_newest_is_passed_over_with_a_message(store: CheckpointStore) -> None:
    only_file(store, 20).write_text("weigh")
    notes: list[str] = []
    found = store.latest(note=notes.append)
    assert found is not None
    assert found.step == 10
    assert "step 20 is not whole" in notes[0]
    assert "has 5 bytes" in notes[0]


def test_a_missing_file_is_passed_over(store: CheckpointStore) -> None:
    only_file(store, 20).unlink()
    found = store.latest()
    assert found is not None
    assert found.step == 10


def test_a_marker_that_cannot_be_read_is_passed_over(store: CheckpointStore) -> None:
    storage.local_path(storage.join(store.uri, "_committed", "step-00000020.json")).write_text('{"files": {}, "met')
    found = store.latest()
    assert found is not None
    assert found.step == 10


def test_flipped_bits_are_found_at_loading_and_the_one_before_is_used(store: CheckpointStore, tmp_path: Path) -> None:
    only_file(store, 20).write_text("weights 2x")
    assert store.latest().step == 20  # type: ignore[union-attr]
    with pytest.raises(CorruptArtifact, match="SHA-256"):
        store.load(20, tmp_path / "loaded")
    notes: list[str] = []
    found = store.restore(tmp_path / "restored", note=notes.append)
    assert found is not None
    assert found.step == 10
    assert (tmp_path / "restored" / "engine" / "weights").read_text() == "weights 10"
    assert "step 20 is corrupt" in notes[0]


def test_a_step_that_one_rank_cannot_load_is_used_by_none(store: CheckpointStore, tmp_path: Path) -> None:
    answers = iter([False, True])
    found = store.restore(tmp_path / "restored", agree=lambda ok: ok and next(answers))
    assert found is not None
    assert found.step == 10
    assert (tmp_path / "restored" / "engine" / "weights").read_text() == "weights 10"


def test_files_without_a_step_marker_do_not_count(store: CheckpointStore, tmp_path: Path) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(30, write(tmp_path / "local", weights="weights 30"), barrier=killed)
    assert store.steps() == [10, 20]
    store.save(30, write(tmp_path / "local", weights="weights 30 again"))
    store.load(30, tmp_path / "loaded")
    assert (tmp_path / "loaded" / "engine" / "weights").read_text() == "weights 30 again"


def test_only_the_newest_are_kept_and_leftovers_go(store: CheckpointStore, tmp_path: Path) -> None:
    write(storage.local_path(storage.join(store.uri, "step-00000015")), rubbish="of an attempt that died")
    store.save(30, write(tmp_path / "local", weights="weights 30"))
    assert store.steps() == [20, 30]
    assert sorted(p.name for p in storage.local_path(store.uri).iterdir()) == [
        "_committed",
        "step-00000020",
        "step-00000030",
    ]


def save_steps(store: CheckpointStore, directory: Path, heldout_losses: dict[int, float | None]) -> None:
    for step, loss in heldout_losses.items():
        store.save(step, write(directory, weights=f"weights {step}"), state={"heldout_loss": loss})


def test_every_kth_and_the_best_are_kept_beside_the_newest_and_after_the_end(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "checkpoints"), keep=1, keep_every_steps=20, keep_best=2)
    save_steps(store, tmp_path / "local", {5: 3.0, 10: 1.5, 15: 2.0, 20: 2.5, 25: None, 30: 1.0, 35: 1.75})
    assert store.steps() == [10, 20, 30, 35]
    write(storage.local_path(storage.join(store.uri, "step-00000040")), rubbish="of an attempt that died")
    store.clear()
    assert store.steps() == [10, 20, 30]
    assert {p.name for p in storage.local_path(store.uri).iterdir()} == {
        "_committed",
        "step-00000010",
        "step-00000020",
        "step-00000030",
    }


def test_the_only_intact_step_is_never_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(str(tmp_path / "checkpoints"), keep=1)
    save_steps(store, tmp_path / "local", {10: None})
    prune = store._prune

    def torn_before_pruning(newest: int) -> None:
        only_file(store, newest).write_text("torn")
        prune(newest)

    monkeypatch.setattr(store, "_prune", torn_before_pruning)
    save_steps(store, tmp_path / "local", {20: None})
    assert store.steps() == [10, 20]
    assert store.latest().step == 10  # type: ignore[union-attr]


def test_corrupt_steps_once_passed_over_push_no_new_one_out(tmp_path: Path) -> None:
    """Of the same size, so only loading finds them; the run goes on from step 10 and keeps what it saves.

    They go with the next commit, not before: nothing is removed while nothing new is there.
    """
    store = CheckpointStore(str(tmp_path / "checkpoints"), keep=2)
    save_steps(store, tmp_path / "local", {10: None, 20: None})
    only_file(store, 20).write_text(only_file(store, 20).read_text()[::-1])
    found = store.restore(tmp_path / "restored")
    assert found is not None
    assert store.steps() == [10, 20]
    save_steps(store, tmp_path / "local", {12: None})
    assert store.steps() == [10, 12]
    save_steps(store, tmp_path / "local", {20: None})
    assert store.steps() == [12, 20]
    assert store.restore(tmp_path / "again").step == 20  # type: ignore[union-attr]


def test_checkpoints_that_nobody_could_load_stay(store: CheckpointStore, tmp_path: Path) -> None:
    """A store that one machine does not see looks like corrupt checkpoints to it."""
    assert store.restore(tmp_path / "restored", agree=lambda ok: False) is None
    assert store.steps() == [10, 20]


def test_a_torn_marker_is_pruned_like_any_other(store: CheckpointStore, tmp_path: Path) -> None:
    storage.local_path(storage.join(store.uri, "_committed", "step-00000010.json")).write_text('{"fi')
    store.save(30, write(tmp_path / "local", weights="weights 30"))
    assert store.steps() == [20, 30]


def test_clear_leaves_nothing(store: CheckpointStore) -> None:
    store.clear()
    assert not storage.exists(store.uri)


def test_each_rank_commits_its_files_and_gets_back_those_it_needs(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "checkpoints"))
    barrier = threading.Barrier(3)

    def save(rank: int) -> None:
        local = write(tmp_path / f"local{rank}", **{f"optimizer_{rank}": f"of rank {rank}"})
        if rank == 0:
            write(local, weights="of all")
        store.save(5, local, rank=rank, world_size=3, barrier=barrier.wait, state={"rank": rank})

    ranks = [threading.Thread(target=save, args=(rank,)) for rank in range(3)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    found = store.load(5, tmp_path / "rank2", ranks=(0, 2))
    assert (found.world_size, found.state) == (3, {"rank": 0})
    names = sorted(p.name for p in (tmp_path / "rank2" / "engine").iterdir())
    assert names == ["optimizer_0", "optimizer_2", "weights"]


def test_state_must_be_json(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "checkpoints"))
    with pytest.raises(TypeError):
        store.save(1, write(tmp_path / "local", weights="x"), state={"bad": object()})
    assert store.steps() == []


def test_keeping_none_is_refused() -> None:
    with pytest.raises(ValueError, match="keep is 0"):
        CheckpointStore("anywhere", keep=0)


def test_state_saved_after_a_rewind_wins_over_the_one_kept_by_it(tmp_path: Path) -> None:
    """Back to 40, then to 30, then 40 anew: who resumes at 40 goes on from what was saved last."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "part").write_text("x")
    store = CheckpointStore(str(tmp_path / "store"), keep=9)
    for step in (30, 40, 50):
        store.save(step, tmp_path / "local", state={"offset": 0})
    store.rewind(40, {"offset": 160})
    assert store.steps() == [30, 40]
    assert store.rewound(40) == {"offset": 160}
    store.rewind(30, {"offset": 300})
    assert store.rewound(40) is None
    store.save(40, tmp_path / "local", state={"offset": 400})
    assert (store.rewound(40), store.rewound(30)) == (None, {"offset": 300})
    store.rewind(40, {"offset": 500})
    store.save(40, tmp_path / "local", state={"offset": 600})
    assert store.rewound(40) is None


def test_rank_that_sees_an_older_listing_loads_what_rank_zero_chose(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "part").write_text("x")
    store = CheckpointStore(str(tmp_path / "store"), keep=9)
    for step in (40, 50):
        store.save(step, tmp_path / "local")
    chosen = store.restore(tmp_path / "zero")
    assert chosen is not None
    behind = store.restore(tmp_path / "one", at_most=40, share=lambda mine: 50)
    assert behind is not None
    assert (chosen.step, behind.step) == (50, 50)


def test_a_stage_whose_checkpoint_is_of_another_number_of_workers_is_told_which(store: CheckpointStore) -> None:
    store.require_world_size(1)
    with pytest.raises(StageFailed, match=r"step 20 was written by 1 workers and doesn't fit 2; set .* to 1, or rem"):
        store.require_world_size(2)


def test_any_number_of_workers_will_do_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    CheckpointStore(str(tmp_path / "nothing")).require_world_size(7)


def test_a_stage_keeps_its_checkpoints_in_one_place_below_its_output(tmp_path: Path) -> None:
    of_stage = CheckpointStore.of_stage(str(tmp_path), keep_every_steps=20)
    assert of_stage.uri == str(tmp_path / "checkpoints")
    assert (of_stage.keep, of_stage.keep_every_steps, of_stage.keep_best) == (2, 20, 0)
