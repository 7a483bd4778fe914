import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.contracts.errors import InputError
from training.conversations.artifact import ReadConversation
from training.conversations.reading import read_conversation_files
from training.conversations.splitting import deduplicated, first_prompt, split_conversations


def talk(*contents: str, system: str | None = None) -> Any:
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system is not None else turns


def test_bad_rows_are_quarantined_with_offset_and_reason(tmp_path: Path) -> None:
    good = json.dumps({"messages": talk("a", "b")})
    lines = [
        good,
        "{broken",
        json.dumps({"text": "no messages"}),
        json.dumps({"messages": [{"role": "wizard", "content": "x"}]}),
        json.dumps({"messages": talk("a", " ")}),
        json.dumps({"messages": talk("a", "b", "c")}),
        json.dumps({"messages": ["a"]}),
        "",
        good,
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    conversations, quarantined = read_conversation_files([str(path)])
    assert len(conversations) == 2
    assert [row.reason for row in quarantined] == [
        "bad_json",
        "missing_messages",
        "bad_role",
        "empty_content",
        "wrong_order",
        "bad_message",
    ]
    content = path.read_bytes()
    assert content[quarantined[0].offset :].startswith(b"{broken")


def test_a_truncated_gzip_file_is_quarantined_whole(tmp_path: Path) -> None:
    row = json.dumps({"messages": talk("a", "b")}).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row * 500)[:-20])
    (tmp_path / "b.jsonl").write_bytes(row)
    conversations, quarantined = read_conversation_files([str(tmp_path)])
    assert len(conversations) == 1
    assert [(q.offset, q.reason) for q in quarantined] == [(-1, "unreadable_file")]


def test_no_input_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="none of 1 rows"):
        read_conversation_files([str(tmp_path / "bad.jsonl")])
    with pytest.raises(InputError, match="no file matches"):
        read_conversation_files([str(tmp_path / "absent*.jsonl")])


def placed(rows: list[Any]) -> list[ReadConversation]:
    return [ReadConversation(row, "rows.jsonl", number) for number, row in enumerate(rows)]


def test_split_shares_no_first_prompt_and_leaks_none_in_later_turns() -> None:
    conversations = [{"messages": talk(f"prompt {i}", "x")} for i in range(300)]
    conversations += [{"messages": talk(f"prompt {i}", "x", f"Prompt  {i + 1}", "y")} for i in range(299)]
    split = split_conversations(placed(conversations), fraction=0.3, seed=5)
    heldout = {first_prompt(row.conversation) for row in split.heldout}
    said = {
        message["content"].casefold()
        for row in split.train
        for message in row.conversation["messages"]
        if message["role"] == "user"
    }
    assert not heldout & {" ".join(text.split()) for text in said}
    assert split.leaking
    assert len(split.train) + len(split.heldout) + len(split.leaking) == len(conversations)
    assert 0.2 < len(heldout) / 300 < 0.4


def test_deduplication_keeps_the_first_of_equal_conversations() -> None:
    rows = placed(
        [{"messages": talk("a", "b"), "topic": "1"}, {"messages": talk("a", "b")}, {"messages": talk("a", "c")}]
    )
    assert deduplicated(rows) == [rows[0], rows[2]]
