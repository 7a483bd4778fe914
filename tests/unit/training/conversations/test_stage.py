import json
from pathlib import Path

import pytest

from cluster.contracts.errors import CorruptArtifact, InputError
from cluster.contracts.storage import read_table
from tests.chat_fixtures import conversation, make_conversations
from training.conversations.artifact import read_conversations


def test_every_row_is_training_or_heldout_or_dropped_or_quarantined(tmp_path: Path) -> None:
    rows = [json.dumps(conversation(number)) for number in range(60)]
    follow_up = [*conversation(1)["messages"], *conversation(2)["messages"]]
    lines = [*rows, rows[0], rows[0], *(json.dumps({"messages": follow_up}) for _ in range(1)), "{broken", "[]"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    metrics = make_conversations(tmp_path / "out", [tmp_path / "rows.jsonl"], heldout_fraction=0.3).manifest.metrics
    assert metrics["num_rows"] == len(lines)
    kept = metrics["num_train"] + metrics["num_heldout"]
    assert kept + metrics["num_dropped"] + metrics["num_quarantined"] == metrics["num_rows"]
    assert metrics["num_dropped_duplicate"] == 2
    assert metrics["quarantined_by_reason"] == {"bad_json": 1, "missing_messages": 1}
    assert len(read_table(str(tmp_path / "out" / "dropped.parquet"))) == metrics["num_dropped"]
    assert len(read_table(str(tmp_path / "out" / "quarantined.parquet"))) == 2


def test_rows_come_back_as_they_were_in_their_order(tmp_path: Path) -> None:
    rows = [conversation(number) for number in range(50)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    artifact = make_conversations(tmp_path / "out", [tmp_path / "rows.jsonl"])
    train, heldout = (read_conversations(artifact.uri, side) for side in ("train", "heldout"))
    assert train == [row for row in rows if row in train]
    assert heldout == [row for row in rows if row not in train]


def test_files_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(conversation(1)))
    with pytest.raises(InputError, match="leave none to train on"):
        make_conversations(tmp_path / "out", [tmp_path / "rows.jsonl"], heldout_fraction=1)


def test_another_directory_is_no_conversations_artifact(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="is no conversations artifact"):
        read_conversations(str(tmp_path), "train")
