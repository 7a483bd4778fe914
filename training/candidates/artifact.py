"""What a candidates artifact holds: one row per answer, with all that is needed to judge it or to make it again.

The answers lie in Parquet files, one per committed part: a model's answers to `prompts_per_part` prompts. A prompt's
answers may therefore lie in several files; `read_candidates` brings them together. People, reward models and judges
rank the same artifact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.commit import check_size, committed_parts
from cluster.contracts.errors import CorruptArtifact
from cluster.contracts.records import Message, SamplingParams
from training.conversations.artifact import MESSAGE_TYPE, Split, message_from_row, message_to_row

ANSWERS = "answers"  # the role of a part's file

ROW_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),  # the same for all answers to one prompt: a hash of its messages and tools
        ("prompt", pa.list_(MESSAGE_TYPE)),
        ("tools", pa.string()),  # JSON, as in a conversations artifact
        ("split", pa.string()),  # "train" or "heldout": the side of the conversations artifact
        ("source", pa.string()),  # the set that the conversation is of
        ("topic", pa.string()),
        ("model", pa.string()),  # the name that the spec gives it
        ("model_fingerprint", pa.string()),
        ("weight_version", pa.int32()),  # of the server's weights; 0: as they lie in the model's directory
        ("number", pa.int32()),  # which of the model's answers to this prompt, from 0
        ("answer", pa.string()),  # without special tokens
        ("answer_ids", pa.list_(pa.int32())),  # with the token that ended it, where there was one
        ("num_prompt_tokens", pa.int32()),
        ("logprob", pa.float64()),  # natural log, summed over the tokens
        ("token_logprobs", pa.list_(pa.float32())),  # at the sampling temperature, at 1 where that is 0
        ("finish_reason", pa.string()),  # "stop" or "length"
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("top_k", pa.int32()),
        ("max_new_tokens", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Candidate:
    """One model's answer to one prompt. The prompt stands in the `PromptCandidates` that holds it."""

    model: str
    model_fingerprint: str
    weight_version: int
    number: int
    answer: str
    answer_ids: list[int]
    num_prompt_tokens: int
    logprob: float
    token_logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    sampling: SamplingParams  # with the seed; its stop tokens are the model's and are not kept


@dataclass(frozen=True)
class CandidatePrompt:
    """A prompt that is answered, and the conversation that it is the beginning of."""

    prompt_id: str
    messages: list[Message]
    split: Split
    tools: list[dict[str, Any]] | None = None
    source: str | None = None
    topic: str | None = None


@dataclass(frozen=True)
class PromptCandidates:
    """A prompt with all answers to it: model after model in the order of their names, each by number."""

    prompt: CandidatePrompt
    candidates: list[Candidate]


def candidates_parquet(rows: Sequence[tuple[CandidatePrompt, Candidate]]) -> bytes:
    """The answers as a Parquet file (zstd)."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([_to_row(prompt, candidate) for prompt, candidate in rows], schema=ROW_SCHEMA)
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_candidates(uri: str, split: Split | None = None) -> list[PromptCandidates]:
    """The prompts of the artifact at `uri` with their answers, in the order of the parts; of one side, or of both.

    Raises `CorruptArtifact`.
    """
    prompts: dict[str, CandidatePrompt] = {}
    answers: dict[str, list[Candidate]] = {}
    for row in _rows(uri):
        if split is None or row["split"] == split:
            prompt_id = row["prompt_id"]
            if prompt_id not in prompts:
                prompts[prompt_id] = _prompt_from_row(row)
            answers.setdefault(prompt_id, []).append(_candidate_from_row(row))
    return [
        PromptCandidates(prompt, sorted(answers[prompt_id], key=lambda c: (c.model, c.number)))
        for prompt_id, prompt in prompts.items()
    ]


def _rows(uri: str) -> Iterator[dict[str, Any]]:
    parts = committed_parts(uri)
    if not parts:
        raise CorruptArtifact(f"{uri} is no candidates artifact: it has no committed part")
    for part in parts.values():
        if ANSWERS not in part.files:
            raise CorruptArtifact(f"{uri} is no candidates artifact: its part {part.key} has no answers")
        try:
            yield from storage.read_table(check_size(uri, part.files[ANSWERS])).to_pylist()
        except pa.ArrowInvalid as error:
            raise CorruptArtifact(f"{uri}/{part.files[ANSWERS].name} can't be read: {error}") from error


def _to_row(prompt: CandidatePrompt, candidate: Candidate) -> dict[str, Any]:
    sampling = candidate.sampling
    return {
        "prompt_id": prompt.prompt_id,
        "prompt": [message_to_row(message) for message in prompt.messages],
        "tools": None if prompt.tools is None else orjson.dumps(prompt.tools).decode(),
        "split": prompt.split,
        "source": prompt.source,
        "topic": prompt.topic,
        "model": candidate.model,
        "model_fingerprint": candidate.model_fingerprint,
        "weight_version": candidate.weight_version,
        "number": candidate.number,
        "answer": candidate.answer,
        "answer_ids": candidate.answer_ids,
        "num_prompt_tokens": candidate.num_prompt_tokens,
        "logprob": candidate.logprob,
        "token_logprobs": candidate.token_logprobs,
        "finish_reason": candidate.finish_reason,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_new_tokens": sampling.max_new_tokens,
    }


def _prompt_from_row(row: Mapping[str, Any]) -> CandidatePrompt:
    return CandidatePrompt(
        prompt_id=row["prompt_id"],
        messages=[message_from_row(message) for message in row["prompt"]],
        split=row["split"],
        tools=None if row["tools"] is None else orjson.loads(row["tools"]),
        source=row["source"],
        topic=row["topic"],
    )


def _candidate_from_row(row: Mapping[str, Any]) -> Candidate:
    sampling = SamplingParams(
        max_new_tokens=row["max_new_tokens"],
        temperature=row["temperature"],
        top_p=row["top_p"],
        top_k=row["top_k"],
        seed=row["seed"],
    )
    return Candidate(
        model=row["model"],
        model_fingerprint=row["model_fingerprint"],
        weight_version=row["weight_version"],
        number=row["number"],
        answer=row["answer"],
        answer_ids=row["answer_ids"],
        num_prompt_tokens=row["num_prompt_tokens"],
        logprob=row["logprob"],
        token_logprobs=row["token_logprobs"],
        finish_reason=row["finish_reason"],
        sampling=sampling,
    )
