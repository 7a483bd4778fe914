"""Conversations are cleaned by what cleans documents, each by itself, and only where that is asked for."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from cluster.contracts.artifacts import StageContext
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from cluster.contracts.records import Conversation
from cluster.contracts.storage import read_table
from cluster.conversation_cleaning import ConversationCleaner, cleaner_of
from cluster.conversations_stage import run
from dataprep.pii.kinds import KINDS
from training.conversations.artifact import read_conversations
from training.conversations.config import CleaningSettings, ConversationsConfig, PiiKind
from training.conversations.part import Cleaned

PASSAGE = "the quick brown fox jumps over the lazy dog near the old stone bridge every single morning"


def talk(*contents: str) -> Conversation:
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return Conversation(messages=turns)  # type: ignore[typeddict-item]


def clean(rows: list[Conversation], **settings: Any) -> Cleaned:
    return ConversationCleaner(CleaningSettings.model_validate(settings))(rows)


def test_nothing_is_cleaned_by_default() -> None:
    assert cleaner_of(ConversationsConfig(inputs=["x.jsonl"])) is None


def test_languages_are_told_by_what_user_and_assistant_say() -> None:
    english = talk("What did the old king say to his people?", "He told them that the war was over at last.")
    german = talk("Was hat der alte König zu seinem Volk gesagt?", "Er sagte, dass der Krieg endlich vorbei sei.")
    german["messages"].insert(0, {"role": "system", "content": "You are a helpful assistant that always answers."})
    found = clean([english, german], languages=["en"])
    assert found.reasons == [None, "language"]
    assert found.counts == {"language en": 1, "language de": 1}
    assert clean([english], languages=["en"], language_threshold=1).reasons == ["language_score"]


def test_bad_words_and_passages_of_evaluation_sets_are_reasons(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("blast\n")
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": PASSAGE, "id": "x"}) + "\n")
    rows = [talk("Well?", "Fine."), talk("Blast it!", "Now, now."), talk("Say it.", f"Yes: {PASSAGE.upper()}!")]
    found = clean(
        rows,
        bad_words={"files": [str(tmp_path / "words.txt")]},
        contamination={"files": [str(tmp_path / "eval.jsonl")], "fields": ["question"]},
    )
    assert found.reasons == [None, "bad_words", "contaminated"]
    assert found.counts == {f"passages of {tmp_path / 'eval.jsonl'}": 1}
    assert found.conversations == rows


def test_personal_data_is_replaced_in_every_text_of_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("blast\n")
    mail = "ada@example.org"
    arguments = {"to": [mail, 7], "body": {"text": f"To {mail}"}}
    row = talk(f"Write to {mail}.", "")
    row["messages"][1] |= {
        "reasoning_content": f"{mail}?",
        "tool_calls": [{"type": "function", "function": {"name": "send", "arguments": arguments}}],
    }
    bad = talk(f"Blast {mail}", "No.")
    found = clean([row, bad], pii={}, bad_words={"files": [str(tmp_path / "words.txt")]})
    text = json.dumps(found.conversations[0])
    assert mail not in text
    assert text.count("<EMAIL_ADDRESS>") == 4
    assert found.conversations[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]["to"][1] == 7
    assert found.conversations[1] == bad
    assert found.counts == {"placeholders of email_address": 4}
    assert row["messages"][0]["content"] == f"Write to {mail}.", "what was handed in is as it was"


def test_the_kinds_of_personal_data_are_those_that_are_found() -> None:
    assert get_args(PiiKind) == KINDS


def test_lists_that_say_nothing_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for cleaning in (
        {"bad_words": {"files": [str(tmp_path / "empty.txt")]}},
        {"contamination": {"files": [str(tmp_path / "empty.txt")]}},
        {"bad_words": {"files": [str(tmp_path / "absent.txt")]}},
    ):
        with pytest.raises(InputError):
            cleaner_of(ConversationsConfig.model_validate({"inputs": ["x.jsonl"], "cleaning": cleaning}))


def test_the_stage_counts_what_was_dropped_and_splits_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("blast\n")
    rows = [talk(f"Number {n}? Mail a{n}@example.org", "Blast." if n % 10 == 0 else "Well said.") for n in range(50)]
    rows += [talk("Short?", "No."), talk("Long?", "word " * 300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ConversationsConfig.model_validate(
        {
            "inputs": [str(tmp_path / "rows.jsonl")],
            "cleaning": {"bad_words": {"files": [str(tmp_path / "words.txt")]}, "pii": {"kinds": ["email_address"]}},
            "length": {"min_answer_words": 2, "max_characters": 1000},
        }
    )
    out = str(tmp_path / "out")
    result = run(config, {}, out, StageContext("conversations", SilentProgress(), tmp_path, tmp_path))
    assert {name: count for name, count in result.metrics.items() if name.startswith("num_dropped_")} == {
        "num_dropped_bad_words": 5, "num_dropped_answer_too_short": 1, "num_dropped_too_long": 1,
    }  # fmt: skip
    assert result.metrics["found"] == {"placeholders of email_address": 45}
    assert result.metrics["num_train"] + result.metrics["num_heldout"] == 45
    kept = read_conversations(out, "train")
    assert all("<EMAIL_ADDRESS>" in row["messages"][0]["content"] for row in kept)
    dropped = read_table(f"{out}/dropped.parquet").to_pylist()
    assert [row["line"] for row in dropped if row["reason"] == "bad_words"] == [1, 11, 21, 31, 41]
