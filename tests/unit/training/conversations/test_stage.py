import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.contracts.artifacts import StageContext, StageResult
from cluster.contracts.errors import CorruptArtifact, InputError
from cluster.contracts.progress import SilentProgress
from cluster.contracts.records import Conversation
from cluster.contracts.storage import read_table
from tests.chat_fixtures import conversation, make_conversations
from training.conversations import artifact as artifact_files
from training.conversations import part, ranges
from training.conversations.artifact import (
    Split,
    iter_conversations,
    num_conversations,
    read_conversations,
    read_located_conversations,
    read_located_prompts,
)
from training.conversations.config import ConversationsConfig
from training.conversations.prompts import distinct_prompts
from training.conversations.stage import run


def run_stage(directory: Path, **settings: Any) -> StageResult:
    context = StageContext("conversations", SilentProgress(), directory, directory)
    return run(ConversationsConfig.model_validate(settings), {}, str(directory), context)


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def sides(directory: Path) -> list[Conversation]:
    return [row for split in ("train", "heldout") for row in read_conversations(str(directory), split)]  # type: ignore[arg-type]


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
    assert metrics["quarantined_by_reason"] == {"bad_json": 1, "not_an_object": 1}
    assert len(read_table(str(tmp_path / "out" / "dropped.parquet"))) == metrics["num_dropped"]
    assert len(read_table(str(tmp_path / "out" / "quarantined.parquet"))) == 2


def test_a_row_that_is_set_aside_says_in_which_line_it_stands(tmp_path: Path) -> None:
    rows = [conversation(0), "", "{broken", conversation(0), {"messages": [{"role": "user", "content": None}]}]
    inputs = [write_rows(tmp_path / "rows.jsonl", rows)]
    run_stage(tmp_path / "out", inputs=inputs, heldout_fraction=0)
    quarantined = read_table(str(tmp_path / "out" / "quarantined.parquet")).to_pylist()
    assert [(row["line"], row["reason"]) for row in quarantined] == [(3, "bad_json"), (5, "null_content")]
    content = (tmp_path / "rows.jsonl").read_bytes()
    assert content[quarantined[0]["offset"] :].startswith(b"{broken")
    assert '"content": null' in quarantined[1]["detail"]
    (dropped,) = read_table(str(tmp_path / "out" / "dropped.parquet")).to_pylist()
    assert (dropped["line"], dropped["reason"]) == (4, "duplicate")


def test_rows_come_back_as_they_were_in_their_order(tmp_path: Path) -> None:
    rows = [conversation(number) for number in range(50)]
    artifact = make_conversations(tmp_path / "out", [Path(write_rows(tmp_path / "rows.jsonl", rows))])
    train, heldout = (read_conversations(artifact.uri, side) for side in ("train", "heldout"))  # type: ignore[arg-type]
    assert train == [row for row in rows if row in train]
    assert heldout == [row for row in rows if row not in train]


def test_tools_calls_and_reasoning_come_back_as_they_were(tmp_path: Path) -> None:
    schema = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": [1, None], "b": {"c": 0.5}}}, "id": "1"}
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call], "weight": 0.0},
            {"role": "tool", "content": "2", "tool_call_id": "1", "name": "add"},
            {"role": "assistant", "content": "2 \u2028\n"},
        ],
        "tools": [schema],
        "topic": "sums",
    }
    run_stage(tmp_path / "out", inputs=[write_rows(tmp_path / "rows.jsonl", [row])], heldout_fraction=0)
    assert read_conversations(str(tmp_path / "out"), "train") == [row]


def test_ranges_of_a_file_give_the_artifact_that_the_whole_file_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = [conversation(number % 90) for number in range(120)]
    rows[50] = "{broken"
    inputs = [write_rows(tmp_path / "rows.jsonl", rows)]
    whole = run_stage(tmp_path / "whole", inputs=inputs)
    plan = ranges.plan_shards
    monkeypatch.setattr("training.conversations.stage.plan_shards", lambda *a: plan(*a, range_bytes=1000))
    parted = run_stage(tmp_path / "parted", inputs=inputs)
    assert parted.metrics == whole.metrics
    for name in ("train", "heldout", "dropped", "quarantined"):
        tables = [read_table(str(tmp_path / side / f"{name}.parquet")) for side in ("whole", "parted")]
        assert tables[0].equals(tables[1])


def test_a_stage_that_was_killed_goes_on_with_the_files_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [write_rows(tmp_path / f"{n}.jsonl", [conversation(10 * n + m) for m in range(10)]) for n in range(3)]
    whole = run_stage(tmp_path / "whole", inputs=inputs)
    opened: list[str] = []
    plain = part.read_rows

    def failing(source: Any, **options: Any) -> Any:
        opened.append(source.uri.rsplit("/", 1)[1])
        if len(opened) == 3:
            raise OSError("the store is gone")
        return plain(source, **options)

    monkeypatch.setattr(part, "read_rows", failing)
    with pytest.raises(OSError, match="the store is gone"):
        run_stage(tmp_path / "out", inputs=inputs)
    again = run_stage(tmp_path / "out", inputs=inputs)
    assert opened == ["0.jsonl", "1.jsonl", "2.jsonl", "2.jsonl"]
    assert again.metrics == whole.metrics
    assert sides(tmp_path / "out") == sides(tmp_path / "whole")
    assert not (tmp_path / "out" / "parts").exists()


def test_rows_are_read_from_anywhere_to_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_files, "_GROUP_ROWS", 7)
    monkeypatch.setattr(artifact_files, "_READ_ROWS", 3)
    rows = [conversation(number) for number in range(50)]
    run_stage(tmp_path, inputs=[write_rows(tmp_path / "rows.jsonl", rows)], heldout_fraction=0)
    assert num_conversations(str(tmp_path), "train") == 50
    for start in (0, 1, 6, 7, 20, 49, 50):
        for stop in (0, 1, 7, 8, 23, 50, 60, None):
            assert list(iter_conversations(str(tmp_path), "train", start=start, stop=stop)) == rows[start:stop]


def test_prompts_lie_beside_conversations_and_are_split_with_them(tmp_path: Path) -> None:
    rows: list[Any] = [conversation(number) for number in range(40)]
    asked = [row["messages"][0]["content"] for row in rows]
    rows += [{"prompt": prompt} for prompt in asked[:5]] + [{"prompt": f"New {number}?"} for number in range(40)]
    inputs = [write_rows(tmp_path / "rows.jsonl", rows)]
    plain = run_stage(tmp_path / "plain", inputs=inputs)
    assert plain.metrics["quarantined_by_reason"] == {"no_answer": 45}
    kept = run_stage(tmp_path / "out", inputs=inputs, keep_prompts=True)
    assert kept.metrics["num_prompts"] == 45
    assert sides(tmp_path / "out") == sides(tmp_path / "plain"), "conversations are as they were"

    def prompts(split: Split) -> list[str]:
        uri = str(tmp_path / "out")
        rows = [*read_located_conversations(uri, split), *read_located_prompts(uri, split)]
        return [prompt.messages[-1]["content"] for prompt in distinct_prompts(rows)]

    assert sorted(prompts("train") + prompts("heldout")) == sorted([*asked, *(f"New {n}?" for n in range(40))])
    assert read_located_prompts(str(tmp_path / "plain"), "train") == []


def test_sets_are_read_each_in_its_way_and_counted_by_name(tmp_path: Path) -> None:
    talks = write_rows(tmp_path / "talks.jsonl", [conversation(number) for number in range(100)])
    labels = tmp_path / "labels.csv"
    labels.write_text("text,label\n" + "".join(f"review {n},{n % 3}\n" for n in range(60)))
    result = run_stage(
        tmp_path / "out",
        sets={
            "talks": {"inputs": [talks], "weight": 0.5, "system": "Be brief."},
            "labels": {
                "inputs": [str(labels)],
                "weight": 2,
                "max_rows": 30,
                "template": {
                    "prompt": ["Is it good? {text}", "{text} Good?"],
                    "answer": "{label}",
                    "labels": {"label": {0: "No.", 1: "Yes."}},
                },
            },
        },
    )
    by_set = result.metrics["by_set"]
    rows = sides(tmp_path / "out")
    assert by_set["labels"]["read"] == 60
    assert by_set["labels"]["quarantined"] == 20
    assert by_set["labels"]["dropped"] == 10
    assert by_set["labels"]["train"] == 2 * by_set["labels"]["distinct_train"]
    assert by_set["talks"]["train"] == round(0.5 * (100 - by_set["talks"]["heldout"]))
    for name, counts in by_set.items():
        assert sum(row["source"] == name for row in rows) == counts["train"] + counts["heldout"]
        assert counts["read"] == sum(counts[key] for key in ("distinct_train", "heldout", "dropped", "quarantined"))
    assert {row["messages"][-1]["content"] for row in rows if row["source"] == "labels"} == {"No.", "Yes."}
    assert all(row["messages"][0]["content"] == "Be brief." for row in rows if row["source"] == "talks")


def test_a_prompt_is_on_one_side_over_all_sets_and_spellings(tmp_path: Path) -> None:
    rows = [conversation(number) for number in range(60)]
    loud = [{"q": row["messages"][0]["content"].upper() + " ", "a": "No."} for row in rows]
    write_rows(tmp_path / "talks.jsonl", rows)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "talks.jsonl")
    spelt = [str(tmp_path / "talks.jsonl"), str(tmp_path / ".." / tmp_path.name / "*.jsonl")]
    result = run_stage(
        tmp_path / "out",
        deduplicate=False,
        sets={
            "loud": {"inputs": [write_rows(tmp_path / "loud.json", loud)], "columns": {"prompt": "q", "answer": "a"}},
            "talks": {"inputs": spelt},
        },
    )
    assert result.metrics["num_rows"] == 120, "one file of two names and two patterns is read once"
    train, heldout = (
        {row["messages"][0]["content"].casefold().strip() for row in read_conversations(str(tmp_path / "out"), side)}  # type: ignore[arg-type]
        for side in ("train", "heldout")
    )
    assert train
    assert heldout
    assert not train & heldout


def test_files_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(conversation(1)))
    with pytest.raises(InputError, match="leave none to train on"):
        make_conversations(tmp_path / "out", [tmp_path / "rows.jsonl"], heldout_fraction=1)


def test_a_set_without_a_conversation_is_refused_with_the_reasons(tmp_path: Path) -> None:
    inputs = [write_rows(tmp_path / "bad.jsonl", [{"text": "x"}, {"text": "y"}, "{"])]
    with pytest.raises(InputError, match=r"none of 3 rows is a conversation \(unknown_format 2, bad_json 1\)"):
        run_stage(tmp_path / "out", inputs=inputs)
    with pytest.raises(InputError, match="no file matches"):
        run_stage(tmp_path / "out", inputs=[str(tmp_path / "absent*.jsonl")])


def test_another_directory_is_no_conversations_artifact(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="is no conversations artifact"):
        read_conversations(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, {"inputs"}),
        ({"inputs": ["a.jsonl"], "sets": {"b": {"inputs": ["b.jsonl"]}}}, {"inputs"}),
        ({"sets": {"b": {"inputs": ["b.jsonl"]}}, "system": "x", "format": "alpaca"}, {"system", "format"}),
        (
            {
                "inputs": ["a.csv"],
                "format": "alpaca",
                "template": {"prompt": ["{a.b}", "{text}"], "answer": "{", "labels": {"label": {}}},
            },
            {"format", "template.prompt.0", "template.answer", "template.labels.label"},
        ),
    ],
)
def test_contradictions_are_named_all_at_once(settings: Any, wrong: set[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        ConversationsConfig.model_validate(settings)
    conflicts = caught.value.errors()[0]["ctx"]["error"].conflicts
    assert {setting for setting, _ in conflicts} == wrong
