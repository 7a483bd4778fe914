import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.contracts.artifacts import StageContext
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from cluster.contracts.records import is_heldout
from tests.chat_fixtures import conversation, make_chat_tokenizer, make_conversations
from training.conversations.prompt_answers import prompt_answers, words
from training.feedback.pairs import read_pairs, read_text_pairs
from training.feedback.worse_answers import disturb_order
from training.preferences.config import PreferencesConfig
from training.preferences.made_pairs import build_pairs
from training.preferences.stage import run

TEXTS = [
    "It all makes sense to my artificial brain.",
    "Quite the contrary, it all makes sense to my artificial mind.",
    "I will, by the way, never say that again to you. Would you like me to do so?",
    "one two three four",
]


def config(**changes: Any) -> PreferencesConfig:
    return PreferencesConfig(conversations="talks", **changes)


def halves(rows: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Training and held-out conversations, split by first prompt."""
    held = [is_heldout(row["messages"][0]["content"], fraction=0.3) for row in rows]
    return [r for r, h in zip(rows, held, strict=True) if not h], [r for r, h in zip(rows, held, strict=True) if h]


@pytest.mark.parametrize("text", TEXTS)
def test_a_disturbed_answer_has_the_same_words_and_length_and_another_order(text: str) -> None:
    for seed in range(20):
        disturbed = disturb_order(text, random.Random(seed))
        assert disturbed is not None
        assert disturbed != text
        assert len(disturbed) == len(text)
        assert Counter(disturbed.split()) == Counter(text.split())


@pytest.mark.parametrize("text", TEXTS)
def test_a_disturbed_answer_has_the_same_tokens_in_another_order(text: str) -> None:
    tokenizer = make_chat_tokenizer()
    disturbed = disturb_order(text, random.Random(1))
    assert Counter(tokenizer(disturbed)["input_ids"]) == Counter(tokenizer(text)["input_ids"])


def test_first_and_last_words_and_those_beside_punctuation_stay() -> None:
    text = "Now, all the good people here (yes) must come to the aid of us."
    for seed in range(20):
        disturbed = disturb_order(text, random.Random(seed))
        assert disturbed is not None
        pieces = disturbed.split()
        assert (pieces[0], pieces[1], pieces[6], pieces[-1]) == ("Now,", "all", "(yes)", "us.")


def test_a_text_without_two_movable_words_cannot_be_disturbed() -> None:
    assert disturb_order("Yes.", random.Random(0)) is None
    assert disturb_order("one two three", random.Random(0)) is None
    assert disturb_order("go on and and and on", random.Random(0)) is not None
    assert disturb_order("so very very very much", random.Random(0)) is None


def test_sides_share_no_prompt_and_no_answer() -> None:
    rows: Any = [conversation(number) for number in range(200)]
    # Two prompts, one on each side, with the same answer: it stays in training only.
    shared = "This is the very same answer to both of them."
    for number in range(40):
        rows.append({"messages": [rows[number]["messages"][0], {"role": "assistant", "content": shared}]})
    sets = build_pairs(*halves(rows), config(disturbed_per_answer=3, other_answers_per_answer=1))
    sides = [{p["prompt"][0]["content"] for p in pairs} for pairs in (sets.train, sets.heldout)]
    answers = [{p["chosen"][0]["content"] for p in pairs} for pairs in (sets.train, sets.heldout)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    assert not answers[0] & answers[1]
    assert sets.counts["num_heldout_answers_also_in_train"] > 0


def test_no_pair_twice_and_no_more_than_asked_for() -> None:
    rows: Any = [conversation(number) for number in range(60)]
    sets = build_pairs(*halves(rows), config(disturbed_per_answer=5, heldout_per_answer=2))
    for pairs, limit in ((sets.train, 5), (sets.heldout, 2)):
        per_answer = Counter(p["chosen"][0]["content"] for p in pairs)
        assert max(per_answer.values()) <= limit
        assert len({(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs}) == len(pairs)


def test_other_answers_have_as_many_words_and_answer_another_prompt() -> None:
    rows: Any = [conversation(number) for number in range(60)]
    sets = build_pairs(*halves(rows), config(disturbed_per_answer=0, other_answers_per_answer=2))
    given = {c["messages"][0]["content"]: c["messages"][1]["content"] for c in rows}
    assert sets.train
    for pair in sets.train:
        rejected = pair["rejected"][0]["content"]
        assert pair["source_name"] == "other_answer"
        assert len(words(rejected)) == len(words(pair["chosen"][0]["content"]))
        assert given[pair["prompt"][0]["content"]] != rejected


def test_one_more_conversation_leaves_the_other_pairs_as_they_are() -> None:
    rows: Any = [conversation(number) for number in range(50)]
    before = build_pairs(*halves(rows[:-1]), config()).train
    after = build_pairs(*halves(rows), config()).train
    assert [pair for pair in after if pair in before] == before


def test_an_answer_to_a_prompt_counts_once_however_often_it_occurs() -> None:
    row: Any = conversation(1)
    assert len(prompt_answers([row, row, row])) == 1


def test_the_stage_writes_what_read_pairs_reads(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(conversation(n)) + "\n" for n in range(60)))
    context = StageContext("preferences", SilentProgress(), tmp_path, tmp_path)
    inputs = {"conversations": make_conversations(tmp_path / "talks", [source])}
    result = run(config(), inputs, str(tmp_path / "out"), context)
    train, heldout = read_pairs(str(tmp_path / "out"))
    assert (len(train), len(heldout)) == (result.metrics["num_train_pairs"], result.metrics["num_heldout_pairs"])
    assert {file.name for file in result.files} == {
        "train.parquet",
        "heldout.parquet",
        "train_pairs.jsonl",
        "heldout_pairs.jsonl",
        "dropped.parquet",
        "quarantined.parquet",
    }
    assert read_text_pairs(str(tmp_path / "out")) == []


def test_sentences_of_texts_make_pairs_of_their_own_and_change_no_others(tmp_path: Path) -> None:
    source, texts = tmp_path / "rows.jsonl", tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps(conversation(n)) + "\n" for n in range(60)))
    sentences = [f"The {word} dog saw {number} small cats today." for number, word in enumerate("abcdef")]
    texts.write_text(json.dumps({"text": " ".join(sentences)}) + "\n" + '{"txt": 1}\n')
    context = StageContext("preferences", SilentProgress(), tmp_path, tmp_path)
    inputs = {"conversations": make_conversations(tmp_path / "talks", [source])}
    without = config()
    settings = without.model_copy(update={"texts": [str(texts)], "text_answers": 3})
    run(without, inputs, str(tmp_path / "without"), context)
    result = run(settings, inputs, str(tmp_path / "out"), context)
    assert read_pairs(str(tmp_path / "out")) == read_pairs(str(tmp_path / "without"))
    pairs = read_text_pairs(str(tmp_path / "out"))
    assert len(pairs) == result.metrics["num_text_pairs"] == 3
    assert result.metrics["num_quarantined"] == 1
    for pair in pairs:
        at = sentences.index(pair["chosen"][0]["content"])
        assert pair["prompt"] == [{"role": "user", "content": sentences[at - 1]}]
        assert Counter(pair["rejected"][0]["content"].split()) == Counter(sentences[at].split())


def test_a_side_without_pairs_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(conversation(1)) + "\n")
    context = StageContext("preferences", SilentProgress(), tmp_path, tmp_path)
    inputs = {"conversations": make_conversations(tmp_path / "talks", [source], heldout_fraction=0)}
    with pytest.raises(InputError, match="both sides need some"):
        run(config(), inputs, str(tmp_path / "out"), context)


def test_a_config_that_asks_for_no_negative_is_refused() -> None:
    with pytest.raises(ValidationError, match="no pairs"):
        config(disturbed_per_answer=0)
