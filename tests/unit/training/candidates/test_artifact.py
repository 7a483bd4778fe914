"""What is written as a candidates artifact is what is read of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.contracts.commit import commit_part
from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.records import Message, SamplingParams
from training.candidates.artifact import (
    ANSWERS,
    Candidate,
    CandidatePrompt,
    PromptCandidates,
    candidates_parquet,
    read_candidates,
)

PROMPT = CandidatePrompt(
    "p0", [Message(role="system", content="Be brief."), Message(role="user", content="Why?")], "train"
)
OTHER = CandidatePrompt(
    "p1", [Message(role="user", content="Look it up.")], "heldout", tools=[{"name": "search"}], source="mine", topic="t"
)
FIRST = Candidate(
    model="sft",
    model_fingerprint="0123456789abcdef",
    weight_version=3,
    number=0,
    answer="Because.",
    answer_ids=[7, 8, 2],
    num_prompt_tokens=9,
    logprob=-1.5,
    token_logprobs=[-0.5, -0.25, -0.75],
    finish_reason="stop",
    sampling=SamplingParams(max_new_tokens=8, temperature=0.7, top_p=0.9, top_k=20, seed=2**62 + 1),
)
SECOND = replace(FIRST, number=1, answer="So", finish_reason="length")


def write_part(directory: Path, key: str, rows: list[tuple[CandidatePrompt, Candidate]]) -> None:
    with commit_part(str(directory), key) as part, part.open(ANSWERS, "answers.parquet") as sink:
        sink.write(candidates_parquet(rows))


def test_answers_to_a_prompt_come_together_from_all_parts(tmp_path: Path) -> None:
    base = replace(FIRST, model="base")
    write_part(tmp_path, "sft-0", [(PROMPT, SECOND), (PROMPT, FIRST), (OTHER, FIRST)])
    write_part(tmp_path, "base-0", [(PROMPT, base)])
    expected = [PromptCandidates(PROMPT, [base, FIRST, SECOND]), PromptCandidates(OTHER, [FIRST])]
    assert read_candidates(str(tmp_path)) == expected
    assert read_candidates(str(tmp_path), "heldout") == expected[1:]


def test_what_is_no_candidates_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="no committed part"):
        read_candidates(str(tmp_path))
    write_part(tmp_path, "sft-0", [(PROMPT, FIRST)])
    next(tmp_path.glob("*.parquet")).write_bytes(b"short")
    with pytest.raises(CorruptArtifact, match="has 5 bytes"):
        read_candidates(str(tmp_path))
