from dataclasses import replace

from cluster.contracts.records import Message, SamplingParams
from training.candidates.artifact import Candidate, CandidatePrompt, PromptCandidates
from training.feedback.conversions import PairRule, to_pairs
from training.preferences.scored_candidates import scored_rows

PROMPT = CandidatePrompt("p0", [Message(role="user", content="Why?")], "train", topic="t")
ANSWER = Candidate(
    model="sft",
    model_fingerprint="0",
    weight_version=0,
    number=0,
    answer="Because.",
    answer_ids=[7, 2],
    num_prompt_tokens=3,
    logprob=-1.0,
    token_logprobs=[-0.5, -0.5],
    finish_reason="stop",
    sampling=SamplingParams(),
)


def answers(*texts: str) -> list[Candidate]:
    return [replace(ANSWER, number=number, answer=text) for number, text in enumerate(texts)]


def test_the_best_scored_answer_stands_over_the_worst_with_the_model_that_gave_it() -> None:
    other = replace(ANSWER, model="dpo", answer="I know.")
    split, counts = scored_rows(
        [PromptCandidates(PROMPT, [*answers("Because.", "So."), other])], [1.0, -2.0, 3.0], scored_by="rm"
    )
    (row,) = split.train
    assert row["kind"] == "scores"
    assert (row["models"], row["source"], row["source_name"], row["topic"]) == (
        ["sft", "sft", "dpo"],
        "model",
        "rm",
        "t",
    )
    (pair,) = to_pairs(split.train, PairRule("best_and_worst"))[0]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("I know.", "So.")
    assert counts == {"num_candidates": 3}


def test_answers_that_teach_nothing_are_left_out_and_counted_and_the_rewards_stay_with_theirs() -> None:
    cut = replace(ANSWER, answer="Because it", finish_reason="length")
    first = PromptCandidates(PROMPT, [*answers("a", "a", " "), cut, *answers("b")])
    second = PromptCandidates(replace(PROMPT, prompt_id="p1", split="heldout"), answers("c", "d", "e"))
    alone = PromptCandidates(replace(PROMPT, prompt_id="p2"), answers("f"))
    rewards = [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, None, 6.0, 7.0]
    split, counts = scored_rows([first, second, alone], rewards, scored_by="rm")
    assert [row["scores"] for row in split.train] == [[1.0, 4.0]]  # type: ignore[typeddict-item]
    assert [row["scores"] for row in split.heldout] == [[5.0, 6.0]]  # type: ignore[typeddict-item]
    left_out = {
        name: counts[f"num_candidates_{name}"] for name in ("repeated", "empty", "cut_off", "not_scored", "alone")
    }
    assert left_out == {"repeated": 1, "empty": 1, "cut_off": 1, "not_scored": 1, "alone": 1}
