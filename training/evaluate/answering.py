"""Has a model answer all that an evaluation asks: held-out prompts by sampling, tasks and shown prompts greedily.

Every model is asked the same questions with the same seeds. A question that a model can't be asked (its template
refuses it, or it is too long) is quarantined for this model, and left out where two models are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.contracts import storage
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.errors import StageFailed
from cluster.contracts.hashing import derived_seed
from cluster.contracts.records import AnswerClient, GenerateRequest, Message, Quarantined, SamplingParams
from training.conversations.artifact import MESSAGE_TYPE, message_from_row, message_to_row
from training.conversations.prompts import Prompt
from training.evaluate.config import EvaluateConfig
from training.evaluate.task_files import TaskItem

SAMPLED, GREEDY = "sampled", "greedy"
"""What the answers to held-out prompts are called among questions; a task's are called by `task_question`."""
_REQUESTS_PER_CALL = 256

SCHEMA = pa.schema(
    [
        ("question", pa.string()),  # "sampled", "greedy" or "task/NAME"
        ("item", pa.string()),
        ("cluster", pa.string()),
        ("prompt", pa.list_(MESSAGE_TYPE)),
        ("prompt_ids", pa.list_(pa.int32())),
        ("answer", pa.string()),
        ("answer_ids", pa.list_(pa.int32())),
        ("logprob", pa.float64()),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Question:
    """A prompt of an evaluation, and how it is to be answered."""

    question: str
    item: str
    cluster: str
    messages: tuple[Message, ...]
    tools: list[dict[str, Any]] | None
    sampling: SamplingParams
    uri: str  # where it is from: a file, or the task
    offset: int = -1


@dataclass(frozen=True)
class Answer:
    """What a model answered to a question."""

    question: str
    item: str
    cluster: str
    messages: tuple[Message, ...]
    prompt_ids: list[int]
    answer: str
    answer_ids: list[int]  # with the token that ended it, where there was one
    logprob: float
    finish_reason: str
    seed: int


def task_question(name: str) -> str:
    """What the answers to a task's items are called among questions."""
    return f"task/{name}"


def questions_of(
    config: EvaluateConfig, prompts: Sequence[Prompt], tasks: Mapping[str, Sequence[TaskItem]], seed: int
) -> list[Question]:
    """All that each model is asked."""
    return list(_questions(config, prompts, tasks, seed))


def _questions(
    config: EvaluateConfig, prompts: Sequence[Prompt], tasks: Mapping[str, Sequence[TaskItem]], seed: int
) -> Iterator[Question]:
    shown = {prompt.id for prompt in prompts[: config.num_samples]}
    for kind in (SAMPLED, GREEDY):
        for prompt in prompts:
            if kind == SAMPLED or prompt.id in shown:
                sampling = SamplingParams(
                    max_new_tokens=config.max_new_tokens,
                    temperature=config.temperature if kind == SAMPLED else 0.0,
                    seed=derived_seed("evaluate", seed, prompt.id),
                )
                place = (prompt.uri, prompt.offset)
                yield Question(kind, prompt.id, prompt.id, prompt.messages, prompt.tools, sampling, *place)
    for name, task in config.tasks.items():
        if task.is_answered:
            sampling = SamplingParams(max_new_tokens=task.max_new_tokens, temperature=0.0, seed=0)
            for item in tasks[name]:
                yield Question(
                    task_question(name), item.id, item.cluster, item.messages, None, sampling, task_question(name)
                )


def answer_all(
    client: AnswerClient, name: str, model_uri: str, encoder: ChatEncoder, questions: Sequence[Question]
) -> tuple[list[Answer], list[Quarantined]]:
    """(the model's answers, the questions that it could not be asked)."""
    longest = client.max_model_len(model_uri)
    asked: list[tuple[Question, list[int]]] = []
    refused: list[Quarantined] = []
    encoded = encoder.encode_prompts((question.messages, question.tools) for question in questions)
    for question, ids in zip(questions, encoded, strict=True):
        reason = ""
        if isinstance(ids, ChatRefused):
            reason, detail = ids.reason, str(ids)
        elif len(ids) + question.sampling.max_new_tokens > longest:
            reason, detail = "prompt_too_long", f"{len(ids)} tokens; prompt and answer may have {longest}"
        if isinstance(ids, ChatRefused) or reason:
            where = f"model {name}, {question.question} {question.item}: {detail}"
            refused.append(Quarantined(question.uri, question.offset, reason, where))
        else:
            asked.append((question, ids))
    answers: list[Answer] = []
    for start in range(0, len(asked), _REQUESTS_PER_CALL):
        answers += _answer(client, model_uri, encoder, asked[start : start + _REQUESTS_PER_CALL])
    return answers, refused


def _answer(
    client: AnswerClient, model_uri: str, encoder: ChatEncoder, asked: Sequence[tuple[Question, list[int]]]
) -> Iterator[Answer]:
    requests = [
        GenerateRequest(ids, _with_stop_tokens(question.sampling, encoder.stop_token_ids)) for question, ids in asked
    ]
    for (question, ids), rollout in zip(asked, client.generate(model_uri, requests), strict=True):
        if rollout.prompt_ids_P.tolist() != ids:
            raise StageFailed("the servers' answers do not belong to the prompts that were sent, in their order")
        answer_ids = rollout.answer_ids_A.tolist()
        yield Answer(
            question.question,
            question.item,
            question.cluster,
            question.messages,
            ids,
            encoder.tokenizer.decode(answer_ids, skip_special_tokens=True),
            answer_ids,
            float(rollout.logprobs_A.sum()),
            rollout.finish_reason,
            question.sampling.seed or 0,
        )


def _with_stop_tokens(sampling: SamplingParams, stop_token_ids: tuple[int, ...]) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        stop_token_ids=stop_token_ids,
        seed=sampling.seed,
    )


def answers_parquet(answers: Sequence[Answer]) -> bytes:
    """The answers as a Parquet file (zstd)."""
    rows = [
        {
            **{name: getattr(answer, name) for name in SCHEMA.names if name != "prompt"},
            "prompt": [message_to_row(message) for message in answer.messages],
        }
        for answer in answers
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_answers(uri: str, question: str | None = None) -> list[Answer]:
    """The answers in such a file, to one kind of question or to all."""
    rows = storage.read_table(uri).to_pylist()
    return [
        Answer(
            messages=tuple(message_from_row(message) for message in row["prompt"]),
            **{name: row[name] for name in SCHEMA.names if name != "prompt"},
        )
        for row in rows
        if question is None or row["question"] == question
    ]


def prompt_text(messages: Sequence[Message]) -> str:
    """What the report shows of a prompt: the last message, or all of them where there are several."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def cluster_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The cluster of what is asked on a prompt: the prompt itself."""
    return orjson.dumps(list(messages), option=orjson.OPT_SORT_KEYS).decode()
