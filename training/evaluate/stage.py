"""The evaluate stage: models side by side, on the same tokens, prompts, pairs, tasks and seeds.

Three steps, each committed model by model, so that a run that is killed goes on with what is left:

1. `answering.py`: the serving engine answers held-out prompts and tasks for one model after another;
2. `measuring.py`: workers measure log-probabilities, pairs, choices and rewards;
3. `judging.py`: where there is a judge, a worker has it compare each model's answers with the baseline's.

`comparison.py` makes figures of what they left, with intervals and differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.commit import CommittedPart, check_size, commit_part, committed_parts, sweep
from cluster.contracts.errors import InputError
from cluster.contracts.records import AnswerClient, Quarantined
from training.conversations.artifact import read_located_conversations
from training.conversations.prompts import Prompt, distinct_prompts
from training.conversations.reading import QUARANTINE_FILE, quarantine_parquet
from training.evaluate.answering import GREEDY, SAMPLED, Answer, Question, answer_all, answers_parquet, questions_of
from training.evaluate.comparison import answer_values, compared, distinct_fraction, side_by_side, task_values, win_rate
from training.evaluate.config import EvaluateConfig
from training.evaluate.items import read_items
from training.evaluate.judging import judge_models, judged_key
from training.evaluate.measuring import (
    ANSWERS,
    ITEMS,
    EvaluateJob,
    answers_key,
    answers_of,
    measure_models,
    measured_key,
)
from training.evaluate.statistics import ItemValues
from training.evaluate.task_files import TaskItem, read_task
from training.export import write_file
from training.launch.workers import Launcher
from training.tokenizers import load_tokenizer


def run(
    config: EvaluateConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    answering: Callable[[], AbstractContextManager[AnswerClient]],
    launch: Launcher,
) -> StageResult:
    """`answering` starts what lets models answer, if one has to. Raises `InputError` for inputs without rows."""
    sweep(output)
    tasks: dict[str, list[TaskItem]] = {}
    quarantined: list[Quarantined] = []
    for name, task in config.tasks.items():
        tasks[name], refused = read_task(task)
        quarantined += refused
        if not tasks[name]:
            raise InputError(f"task {name!r} has no item; its files have {len(refused)} rows that are none")
    prompts = heldout_prompts(config, inputs)
    models = {name: inputs[f"models.{name}"].uri for name in config.models}
    if config.asks_for_answers:
        asked = questions_of(config, prompts, tasks, context.seed)
        quarantined += answer_models(answering, models, asked, output, context)
    job = EvaluateJob(
        config=config,
        models=models,
        tokens_uri=_uri(inputs, "tokens"),
        tokens_tokenizer_uri=tokens_tokenizer(inputs["tokens"], models[config.compared_with])
        if config.tokens is not None
        else None,
        conversations_uri=_uri(inputs, "conversations"),
        reward_model_uri=_uri(inputs, "reward_model"),
        judge_uri=_uri(inputs, "judge"),
        preferences_uri=_uri(inputs, "preferences"),
        output=output,
    )
    launch(measure_models, job, config.workers, context)
    if config.judge is not None:
        launch(judge_models, job, config.workers, context)
    parts = committed_parts(output)
    files = [file for part in parts.values() for file in part.files.values()]
    files.append(write_file(output, QUARANTINE_FILE, quarantine_parquet(quarantined)))
    return StageResult(metrics_of(config, job, tasks, parts, quarantined, context.seed), files)


def heldout_prompts(config: EvaluateConfig, inputs: Mapping[str, Artifact]) -> list[Prompt]:
    """The held-out prompts that are answered, in their order. Raises `InputError` where there is none."""
    if config.conversations is None:
        return []
    uri = inputs["conversations"].uri
    prompts = distinct_prompts(read_located_conversations(uri, "heldout"))
    if not prompts:
        raise InputError(f"{uri} holds out no conversation; raise the conversations stage's heldout_fraction")
    return prompts[: config.num_prompts]


def answer_models(
    answering: Callable[[], AbstractContextManager[AnswerClient]],
    models: Mapping[str, str],
    asked: Sequence[Question],
    output: str,
    context: StageContext,
) -> list[Quarantined]:
    """Have each model answer, but those whose answers are committed; returns what models could not be asked."""
    done = committed_parts(output)
    todo = [name for name in models if answers_key(name) not in done]
    if todo:
        with answering() as client:
            for count, name in enumerate(todo, 1):
                with storage.local_copy(models[name], context.scratch) as local:
                    encoder = ChatEncoder(load_tokenizer(local))
                answers, refused = answer_all(client, name, models[name], encoder, asked)
                with commit_part(output, answers_key(name)) as part:
                    with part.open(ANSWERS, "answers.parquet") as sink:
                        sink.write(answers_parquet(answers))
                    part.metrics["refused"] = [[r.uri, r.offset, r.reason, r.detail] for r in refused]
                context.progress.update(len(models) - len(todo) + count, len(models), "models answered")
    parts = committed_parts(output)
    return [Quarantined(*row) for name in models for row in parts[answers_key(name)].metrics["refused"]]


def tokens_tokenizer(tokens: Artifact, otherwise: str) -> str:
    """The tokenizer that made a tokens artifact: the stage's own, in the same storage; else that of the baseline."""
    fingerprint = tokens.manifest.inputs.get("tokenizer")
    if fingerprint is not None:
        stage = storage.absolute_uri(f"../../tokenizer/{fingerprint}", base=tokens.uri)
        if storage.exists(storage.join(stage, "tokenizer.json")):
            return stage
    return otherwise


def metrics_of(
    config: EvaluateConfig,
    job: EvaluateJob,
    tasks: Mapping[str, Sequence[TaskItem]],
    parts: Mapping[str, CommittedPart],
    quarantined: Sequence[Quarantined],
    seed: int,
) -> dict[str, Any]:
    """What the stage's manifest and the report hold."""
    baseline = config.compared_with
    facts = {name: parts[measured_key(name)].metrics for name in job.models}
    answers = {name: answers_of(job.output, name) for name in job.models}
    values = {name: _values(config, job, tasks, parts, name, answers[name]) for name in job.models}
    if job.reward_model_uri is not None:
        for name in job.models:
            if name != baseline:
                values[name]["reward_win_rate"] = win_rate(values[name]["reward_mean"], values[baseline]["reward_mean"])
    vocabularies = {name: str(facts[name]["vocabulary"]) for name in job.models}
    found = compared(values, baseline=baseline, vocabularies=vocabularies, confidence=config.confidence, seed=seed)
    for name, figures in found["figures"].items():
        sampled = [answer for answer in answers[name] if answer.question == SAMPLED]
        figures["num_parameters"] = facts[name]["num_parameters"]
        if sampled:
            figures["num_sampled_answers"] = len(sampled)
            figures["distinct_answer_fraction"] = distinct_fraction(sampled)
    return {
        "models": found["figures"],
        "intervals": found["intervals"],
        "differences": found["differences"],
        "baseline": baseline,
        "confidence": config.confidence,
        "vocabularies": vocabularies,
        "num_items": {
            figure: {name: len(own[figure].items) for name, own in values.items() if figure in own}
            for figure in dict.fromkeys(figure for own in values.values() for figure in own)
        },
        "tasks": {name: {"kind": task.kind, "num_items": len(tasks[name])} for name, task in config.tasks.items()},
        "judged": {name: parts[judged_key(name)].metrics for name in job.models if judged_key(name) in parts},
        "samples": side_by_side(answers, GREEDY),
        "num_quarantined": len(quarantined),
        "quarantined_by_reason": dict(sorted(Counter(row.reason for row in quarantined).items())),
    }


def _values(
    config: EvaluateConfig,
    job: EvaluateJob,
    tasks: Mapping[str, Sequence[TaskItem]],
    parts: Mapping[str, CommittedPart],
    name: str,
    answers: Sequence[Answer],
) -> dict[str, ItemValues]:
    """All figures of one model, item by item."""
    values = read_items(check_size(job.output, parts[measured_key(name)].files[ITEMS]))
    values |= answer_values([answer for answer in answers if answer.question == SAMPLED])
    for task_name, task in config.tasks.items():
        if task.is_answered:
            values |= task_values(task_name, task, tasks[task_name], answers)
    if judged_key(name) in parts:
        values |= read_items(check_size(job.output, parts[judged_key(name)].files[ITEMS]))
    return values


def _uri(inputs: Mapping[str, Artifact], role: str) -> str | None:
    return inputs[role].uri if role in inputs else None
