"""The split by keys is the one that a slow twin makes of the texts, and no held-out prompt is asked in training."""

import random
from typing import Any

import numpy as np
import pytest

from cluster.contracts.records import Conversation, is_heldout
from training.conversations.keys import RowKeys, content_hash, joined_keys, keys_table, prompt_key
from training.conversations.splitting import REASONS, Decisions, SetShare, counts_by_set, decide

FRACTION, SEED = 0.3, 5


def talk(*contents: str, **more: Any) -> Conversation:
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return Conversation(messages=turns, **more)  # type: ignore[typeddict-item]


def keys_of(rows: list[Conversation]) -> RowKeys:
    return joined_keys(
        [
            keys_table(some, [len(row["messages"]) % 2 == 1 for row in some], fraction=FRACTION, seed=SEED)
            for some in (rows[:7], rows[7:])
        ]
    )


def one_set(rows: list[Conversation], **more: Any) -> list[SetShare]:
    return [SetShare("", slice(0, len(rows)), **more)]


def decided(rows: list[Conversation], sets: list[SetShare] | None = None, **options: Any) -> Decisions:
    options = {"deduplicate": True, "seed": SEED, **options}
    return decide(keys_of(rows), sets or one_set(rows), **options)


def words(decisions: Decisions) -> list[str]:
    sides = {False: "train", True: "heldout"}
    pairs = zip(decisions.reason_N, decisions.is_heldout_N, strict=True)
    return [REASONS[reason] or sides[bool(held)] for reason, held in pairs]


def normal(text: str) -> str:
    return " ".join(text.casefold().split())


def slow_twin(rows: list[Conversation]) -> list[str]:
    """The same by texts and loops."""
    seen: list[Any] = []
    found = []
    for row in rows:
        found.append("duplicate" if row["messages"] in seen else "")
        seen.append(row["messages"])
    asked = [[normal(m["content"]) for m in row["messages"] if m["role"] == "user"] for row in rows]
    held = [is_heldout(row["messages"][0]["content"], fraction=FRACTION, seed=SEED) for row in rows]
    prompts = {a[0] for a, h, word in zip(asked, held, found, strict=True) if h and not word}
    for n in range(len(rows)):
        if not found[n]:
            leaks = not held[n] and any(prompt in prompts for prompt in asked[n])
            found[n] = "asks_a_heldout_prompt" if leaks else "heldout" if held[n] else "train"
    return found


def random_rows(seed: int, count: int = 400) -> list[Conversation]:
    draw = random.Random(seed)

    def prompt() -> str:
        text = f"prompt {draw.randrange(150)}"
        return draw.choice([text, text.upper(), f"  {text}\n", text.replace(" ", "\t")])

    return [
        talk(*(prompt() if n % 2 == 0 else draw.choice("abc") for n in range(draw.choice([1, 2, 2, 4, 5]))))
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_row_goes_where_a_slow_twin_puts_it(seed: int) -> None:
    rows = random_rows(seed)
    found = words(decided(rows))
    assert found == slow_twin(rows)
    assert {"duplicate", "asks_a_heldout_prompt", "train", "heldout"} == set(found)


@pytest.mark.parametrize("options", [{}, {"deduplicate": False}, {"one_per_prompt": True}])
def test_no_heldout_prompt_is_asked_in_any_turn_of_training(options: Any) -> None:
    for seed in range(5):
        rows = random_rows(seed)
        found = words(decided(rows, **options))
        heldout = {
            normal(row["messages"][0]["content"]) for row, word in zip(rows, found, strict=True) if word == "heldout"
        }
        said = {
            normal(message["content"])
            for row, word in zip(rows, found, strict=True)
            if word == "train"
            for message in row["messages"]
            if message["role"] == "user"
        }
        assert heldout
        assert said
        assert not heldout & said


def test_the_order_of_rows_decides_nothing_but_which_copy_stays() -> None:
    rows = random_rows(1)
    shuffled = random.Random(2).sample(rows, len(rows))

    def kept(of: list[Conversation]) -> list[str]:
        pairs = zip(of, words(decided(of, max_rows := one_set(of, max_rows=100))), strict=True)
        assert max_rows
        return sorted(f"{word} {row['messages']}" for row, word in pairs if word in ("train", "heldout"))

    assert kept(rows) == kept(shuffled)


def test_what_is_not_said_makes_no_other_conversation() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": 2}}}
    turned = {"type": "function", "function": {"arguments": {"b": 2, "a": 1}, "name": "f"}, "id": "x"}
    base = talk("a", "b")

    def with_answer(**more: Any) -> Conversation:
        return Conversation(messages=[base["messages"][0], {**base["messages"][1], **more}])  # type: ignore[typeddict-item]

    assert content_hash(base) == content_hash({**base, "topic": "x", "source": "y", "weight": 2.0})
    assert content_hash(with_answer(tool_calls=[call])) == content_hash(with_answer(tool_calls=[turned]))
    different = [
        base, with_answer(tool_calls=[call]), with_answer(reasoning_content="Hm."), with_answer(weight=0.0),
        Conversation(messages=base["messages"], tools=[{"name": "f"}]), talk("a", "b", "c", "d"), talk("a", "B"),
    ]  # fmt: skip
    assert len({content_hash(row) for row in different}) == len(different)


def distinct(count: int, first: int = 0) -> list[Conversation]:
    return [talk(f"prompt {n}", "x") for n in range(first, first + count)]


@pytest.mark.parametrize(("weight", "each"), [(0.25, (0, 1)), (1.0, (1, 1)), (2.0, (2, 2)), (2.5, (2, 3))])
def test_a_weight_is_met_exactly_and_bears_on_training_alone(weight: float, each: tuple[int, int]) -> None:
    rows = distinct(1000)
    decisions = decided(rows, one_set(rows, weight=weight))
    train = ~decisions.is_heldout_N
    assert decisions.copies_N[train].sum() == round(weight * train.sum())
    assert set(decisions.copies_N[train]) == set(each)
    assert set(decisions.copies_N[~train]) == {1}
    assert words(decisions).count("not_drawn") == (decisions.copies_N == 0).sum()


def test_one_more_row_displaces_at_most_one() -> None:
    rows = distinct(500)
    more = [*rows, talk("one more", "x")]
    for share in ({"max_rows": 200}, {"weight": 0.4}):
        before, after = decided(rows, one_set(rows, **share)), decided(more, one_set(more, **share))
        assert (before.copies_N != after.copies_N[:-1]).sum() <= 1
    assert decided(rows, one_set(rows, max_rows=200)).copies_N.sum() == 200
    assert decided(rows, one_set(rows, max_rows=9999)).copies_N.sum() == 500


def test_sets_are_counted_each_by_itself_and_copies_across_them_once() -> None:
    rows = [*distinct(300), *distinct(200, first=250)]
    sets = [SetShare("a", slice(0, 300)), SetShare("b", slice(300, 500), weight=3.0, max_rows=100)]
    keys = keys_of(rows)
    decisions = decide(keys, sets, deduplicate=True, seed=SEED)
    counts = counts_by_set(decisions, keys.is_prompt_N, sets)
    assert words(decisions)[300:350] == ["duplicate"] * 50
    assert counts["a"]["train"] + counts["a"]["heldout"] == 300
    assert counts["b"]["distinct_train"] + counts["b"]["heldout"] == 100
    assert counts["b"]["train"] == 3 * counts["b"]["distinct_train"]
    assert counts["b"]["dropped"] == 100


def test_prompts_in_other_punctuation_are_the_same_where_that_is_asked_for() -> None:
    prompts = [
        "What is AI?",
        "what is ai",
        "WHAT -- is   (AI)?!",
        "Wh\u00e4t is AI",
        "What is A.I.?",
        "What is AI, then?",
    ]
    strict, loose = ([prompt_key(p, ignore_punctuation=flag) for p in prompts] for flag in (False, True))
    assert len(set(strict)) == 6
    assert loose[0] == loose[1] == loose[2] == loose[3]
    assert len(set(loose)) == 3
    assert prompt_key("?!", ignore_punctuation=True) != prompt_key("...", ignore_punctuation=True)
    rows = [talk(f"Prompt {n}{mark}", "x") for n in range(200) for mark in ("", "?", "!")]
    table = keys_table(rows, [False] * 600, fraction=FRACTION, seed=SEED, ignore_punctuation=True)
    found = words(decide(joined_keys([table]), one_set(rows), deduplicate=True, seed=SEED))
    sides = [{found[3 * n + place] for place in range(3)} for n in range(200)]
    assert all("heldout" not in side or "train" not in side for side in sides)
    assert any({"heldout", "asks_a_heldout_prompt"} == side for side in sides)


def test_no_rows_are_no_fault() -> None:
    decisions = decide(joined_keys([]), [SetShare("", slice(0, 0))], deduplicate=True)
    assert len(decisions.reason_N) == 0
    assert decisions.reason_N.dtype == np.int8
