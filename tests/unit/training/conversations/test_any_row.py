"""Whatever a row holds, it becomes a conversation that can be written and read again, or it says why not."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.contracts.storage import read_table
from tests.unit.training.conversations.test_stage import run_stage, sides
from training.conversations.config import ConversationSet, InstructionTemplate
from training.conversations.formats import RowParser
from training.conversations.messages import BadRow

KEYS = (
    *("messages", "conversations", "conversation", "role", "from", "content", "value", "text", "type", "tools", "name"),
    *(
        "functions",
        "tool_calls",
        "function_call",
        "function",
        "arguments",
        "parameters",
        "id",
        "tool_call_id",
        "weight",
    ),
    *("train", "reasoning", "thinking", "instruction", "input", "output", "history", "response", "context", "prompt"),
    *("completion", "question", "answer", "system", "system_prompt", "topic", "chosen"),
)
WORDS = (
    "user",
    "assistant",
    "system",
    "tool",
    "human",
    "gpt",
    "function_call",
    "observation",
    "text",
    "image_url",
    "f",
)
TEXTS = (
    "",
    " ",
    "Hello?",
    "{",
    '{"name": "f", "arguments": {}}',
    '[{"role": "user", "content": "x"}]',
    "[[1, 2]]",
    "\0",
)


def any_value(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(9 if depth else 6)
    if kind < 6:
        return [None, draw.choice(WORDS), draw.choice(TEXTS), draw.choice([0, 1, -1.5, 2**62]), True, "x"][kind]
    if kind == 6:
        return [any_value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return any_mapping(draw, depth - 1)


def any_mapping(draw: random.Random, depth: int) -> dict[str, Any]:
    return {draw.choice(KEYS): any_value(draw, depth) for _ in range(draw.randrange(5))}


def nearly_right(draw: random.Random) -> dict[str, Any]:
    """A conversation in which something is as likely as not to be wrong."""
    turns = []
    for n in range(draw.choice([1, 2, 2, 2, 3, 4])):
        turn: dict[str, Any] = {"role": ("user", "assistant")[n % 2], "content": f"word {draw.randrange(9)}"}
        if draw.random() < 0.2:
            turn |= any_mapping(draw, 3)
        turns.append(turn)
    return {"messages": turns, **(any_mapping(draw, 3) if draw.random() < 0.2 else {})}


def any_rows(seed: int, count: int) -> list[Any]:
    draw = random.Random(seed)
    return [draw.choice([nearly_right(draw), any_mapping(draw, 4), any_value(draw, 3)]) for _ in range(count)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"format": "alpaca", "system": "Be brief."},
        {"columns": {"messages": "messages", "tools": "name", "weight": "id"}},
        {"template": InstructionTemplate(prompt=["{text} {name[0]}", "{content}"], answer="{role}")},
    ],
)
def test_a_parser_raises_nothing_but_that_a_row_is_bad(settings: dict[str, Any]) -> None:
    parser = RowParser(
        ConversationSet.model_validate({"inputs": ["x"], **settings}),
        mend=["merge_turns", "drop_first_answers", "drop_last_prompts"],
        keep_prompts=True,
    )
    found = Counter[str]()
    for row in any_rows(1, 8000):
        try:
            parser(row)
        except BadRow as bad:
            found[str(bad)] += 1
    assert len(found) > 3
    assert all(reason.replace("_", "").isalpha() for reason in found)


def test_all_rows_of_a_file_are_accounted_for_and_what_stays_can_be_read(tmp_path: Path) -> None:
    rows = any_rows(2, 4000)
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    metrics = run_stage(
        tmp_path / "out", inputs=[str(tmp_path / "rows.jsonl")], mend=["merge_turns"], keep_prompts=True
    ).metrics
    kept = sides(tmp_path / "out")
    assert len(kept) > 200
    assert len(metrics["quarantined_by_reason"]) > 9
    assert metrics["num_rows"] == len(rows)
    accounted = ("num_train", "num_heldout", "num_prompts", "num_dropped", "num_quarantined")
    assert sum(metrics[name] for name in accounted) == len(rows)
    for row in kept:
        assert row["messages"][-1]["role"] == "assistant"
        assert all(isinstance(message["content"], str) for message in row["messages"])
    lines = read_table(str(tmp_path / "out" / "quarantined.parquet")).column("line").to_pylist()
    assert len(set(lines)) == metrics["num_quarantined"]
