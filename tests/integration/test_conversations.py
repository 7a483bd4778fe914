"""The conversations stage on a real local Ray: tasks make the artifact that one process makes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.contracts.artifacts import StageContext, StageResult
from cluster.contracts.errors import StageFailed
from cluster.contracts.progress import SilentProgress
from cluster.contracts.storage import read_table
from cluster.conversations_stage import run
from tests.chat_fixtures import conversation
from training.conversations import stage
from training.conversations.config import ConversationsConfig

pytestmark = pytest.mark.usefixtures("local_ray")


def run_stage(output: Path, config: ConversationsConfig) -> StageResult:
    return run(config, {}, str(output), StageContext("conversations", SilentProgress(), output, output))


def test_tasks_make_what_one_process_makes_and_a_failed_file_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        rows: list[Any] = [conversation(10 * number + n) for n in range(15)]
        rows[3]["messages"][1]["content"] += " Mail me@example.org."
        lines = [*map(json.dumps, rows), "{broken", ""]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    config = ConversationsConfig.model_validate(
        {
            "inputs": [str(tmp_path / "*.jsonl")],
            "cleaning": {"pii": {}, "languages": ["en"]},
            "workers": {"cpus": 0.5},
            "heldout_fraction": 0.4,
        }
    )
    here = run_stage(tmp_path / "here", config)
    monkeypatch.setattr(stage, "_FEW_BYTES", 0)

    hidden = tmp_path / "3.jsonl"
    planned = stage.plan_shards

    def plan_and_lose(*arguments: Any) -> Any:
        shards = planned(*arguments)
        hidden.rename(tmp_path / "hidden")
        return shards

    with monkeypatch.context() as patch:
        patch.setattr(stage, "plan_shards", plan_and_lose)
        with pytest.raises(StageFailed, match=r"1 of 6 parts failed(.|\n)*3.jsonl"):
            run_stage(tmp_path / "tasks", config)
    (tmp_path / "hidden").rename(hidden)
    notes: list[str] = []
    monkeypatch.setattr(SilentProgress, "note", lambda self, message: notes.append(message))
    tasks = run_stage(tmp_path / "tasks", config)
    assert notes == ["5 of 6 parts were read before"]
    assert tasks.metrics == here.metrics
    assert tasks.metrics["found"]["placeholders of email_address"] == 6
    for name in ("train", "heldout", "dropped", "quarantined"):
        pair = [read_table(str(tmp_path / side / f"{name}.parquet")) for side in ("here", "tasks")]
        assert pair[0].equals(pair[1])
