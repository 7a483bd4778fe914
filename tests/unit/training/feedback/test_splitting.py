import random

from tests.unit.training.feedback.feedback_rows import asked, label, pair, ranking, said, scores
from training.feedback.prompts import asked as asked_in
from training.feedback.rows import FeedbackRow, PreferencePair
from training.feedback.scales import grouped_scores, observed_ranges, with_ranges
from training.feedback.splitting import first_asked, split_feedback


def conversation(first: str, later: str) -> PreferencePair:
    return {**pair(first, "a", "b"), "prompt": [*asked(first), *said("ok"), *asked(later)]}  # type: ignore[typeddict-item]


def test_no_held_out_prompt_is_asked_in_training_however_it_is_written() -> None:
    generator = random.Random(0)
    prompts = [f"Question {n}?" for n in range(60)]
    rows: list[FeedbackRow] = []
    for n in range(600):
        written = generator.choice([str.upper, str.lower, lambda text: f"  {text.replace(' ', '  ')}\n"])
        first, later = written(generator.choice(prompts)), generator.choice(prompts)
        kinds = [pair(first, f"a{n}", "b"), label(first, f"a{n}", True), ranking(first, [f"a{n}", "b"], [1, 2])]
        rows.append(generator.choice([*kinds, conversation(first, later)]))
    split = split_feedback(rows, fraction=0.3, seed=1)
    heldout = {first_asked(row) for row in split.heldout}
    train = {prompt for row in split.train for prompt in asked_in(row)}
    assert heldout
    assert train
    assert not heldout & train
    assert len(split.train) + len(split.heldout) + len(split.dropped) == len(rows)


def test_given_held_out_rows_and_prompts_stay_out_of_training() -> None:
    rows: list[FeedbackRow] = [pair(f"p{n}", "a", "b") for n in range(20)]
    split = split_feedback(rows, heldout_rows=[pair("P3 ", "c", "d")], heldout_prompts={"p7"}, fraction=0.0, seed=0)
    assert [first_asked(row) for row in split.heldout] == ["p3", "p7"]
    assert [(first_asked(row), reason) for row, reason in split.dropped] == [("p3", "asks_a_heldout_prompt")]
    assert len(split.train) == 18


def test_the_same_judgement_counts_once_wherever_it_was_read() -> None:
    rows: list[FeedbackRow] = [pair("p", "a", "b", uri="x", offset=1), pair("p", "a", "b", uri="y", offset=2)]
    opposite = pair("p", "b", "a")  # two people may disagree
    assert len(split_feedback([*rows, opposite], fraction=0, seed=0).train) == 2
    assert len(split_feedback(rows, fraction=0, seed=0, deduplicate=False).train) == 2


def test_one_more_row_moves_no_other_one_to_the_other_side() -> None:
    rows: list[FeedbackRow] = [pair(f"p{n}", "a", "b") for n in range(100)]
    before, after = split_feedback(rows[:-1], fraction=0.3, seed=0), split_feedback(rows, fraction=0.3, seed=0)
    assert [row for row in after.train if row in before.train] == before.train
    assert [row for row in after.heldout if row in before.heldout] == before.heldout


def test_scores_of_one_prompt_become_one_row_on_the_scale_of_their_source() -> None:
    rows: list[FeedbackRow] = [
        scores("p", ["a"], [1.0]),
        pair("p", "x", "y"),
        scores("q", ["c"], [5.0]),
        scores("p", ["b"], [3.0], models=["m"]),
    ]
    grouped = grouped_scores(rows)
    assert [row["kind"] for row in grouped] == ["scores", "pair", "scores"]
    first = grouped[0]
    assert first["kind"] == "scores"
    assert (first["answers"], first["scores"], first["models"]) == ([said("a"), said("b")], [1.0, 3.0], [None, "m"])
    assert rows[0]["scores"] == [1.0]  # type: ignore[typeddict-item]
    (ranged, *_) = with_ranges(grouped, observed_ranges(grouped))
    assert ranged["score_range"] == (1.0, 5.0)  # type: ignore[typeddict-item]
