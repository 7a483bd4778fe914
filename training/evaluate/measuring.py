"""Measures a model by the probabilities that it gives: held-out text and answers, pairs, choices; and answers' rewards.

One worker measures a whole model and commits its items at once, so a run that is killed goes on with the models that
are left. Losses per token are those of the model's own tokens; bits per byte compare between tokenizers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.contracts import storage
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.commit import check_size, commit_part, committed_part
from cluster.contracts.errors import InputError
from cluster.contracts.tokens import open_shards
from training.conversations.artifact import read_conversations
from training.data.sampler import IGNORE_INDEX, TokenSampler
from training.evaluate.answering import SAMPLED, Answer, cluster_of, read_answers
from training.evaluate.config import EvaluateConfig
from training.evaluate.items import Row, grouped, items_parquet, values_of
from training.evaluate.likelihood_tasks import choice_items, pair_items
from training.evaluate.reader import Reader, assistant, preferred
from training.evaluate.statistics import ItemValues
from training.evaluate.task_files import read_task
from training.feedback.encoded_pairs import encode_pairs
from training.feedback.pairs import read_pairs
from training.inference.heldout import token_bytes
from training.inference.sequence_scores import pair_logprobs, rewards
from training.launch.workers import Worker
from training.models import load_model, load_reward_model
from training.tokenizers import load_tokenizer

ITEMS, ANSWERS = "items", "answers"  # roles of a part's files
_LN_2 = math.log(2)


@dataclass(frozen=True)
class EvaluateJob:
    """What each worker is told."""

    config: EvaluateConfig
    models: dict[str, str]  # name -> URI
    tokens_uri: str | None
    tokens_tokenizer_uri: str | None  # a directory with the tokenizer that the tokens are of
    conversations_uri: str | None
    reward_model_uri: str | None
    judge_uri: str | None
    preferences_uri: str | None
    output: str


def answers_key(name: str) -> str:
    """The part of a model's answers."""
    return f"answers.{name}"


def measured_key(name: str) -> str:
    """The part of a model's measurements."""
    return f"measured.{name}"


def answers_of(output: str, name: str, question: str | None = None) -> list[Answer]:
    """The answers that a model gave; none where it was asked nothing."""
    part = committed_part(output, answers_key(name))
    return [] if part is None else read_answers(check_size(output, part.files[ANSWERS]), question)


def measure_models(worker: Worker, job: EvaluateJob) -> None:
    """What one worker does: it measures its models in turn, but for those that an earlier attempt committed."""
    mine = [name for place, name in enumerate(job.models) if place % worker.world_size == worker.rank]
    per_model = len(_measurements(job))
    total, passed = per_model * len(job.models), 0

    def measured_one(count: int = 1) -> None:
        # Of rank 0, whose share is the largest; the others are about as far.
        nonlocal passed
        passed += count
        worker.progress.update(min(passed * worker.world_size, total), total, "measurements")

    for name in mine:
        if committed_part(job.output, measured_key(name)) is not None:
            measured_one(per_model)
            continue
        figures, facts = measure_model(worker, job, name, measured_one)
        with commit_part(job.output, measured_key(name)) as part:
            with part.open(ITEMS, "items.parquet") as sink:
                sink.write(items_parquet(figures))
            part.metrics.update(facts)


def _measurements(job: EvaluateJob) -> list[str]:
    """What is measured of each model, by its name in the settings."""
    given = {
        "tokens": job.tokens_uri,
        "conversations": job.conversations_uri,
        "preferences": job.preferences_uri,
        "reward_model": job.reward_model_uri,
    }
    tasks = [f"tasks.{name}" for name, task in job.config.tasks.items() if not task.is_answered]
    return [name for name, uri in given.items() if uri is not None] + tasks


def measure_model(
    worker: Worker, job: EvaluateJob, name: str, measured_one: Callable[[], None] = lambda: None
) -> tuple[dict[str, ItemValues], dict[str, Any]]:
    """(items of each figure, what else is to be told of the model); `measured_one` hears of each measurement."""
    with storage.local_copy(job.models[name], worker.scratch) as local:
        tokenizer = load_tokenizer(local)
        model = load_model(local).to(worker.device)
        reader = Reader(
            model, ChatEncoder(tokenizer), token_bytes(local / "tokenizer.json", len(tokenizer)), job.config
        )
    figures: dict[str, ItemValues] = {}
    if job.tokens_uri is not None:
        figures |= token_items(reader, heldout_documents(worker, job, tokenizer, job.tokens_uri))
        measured_one()
    if job.conversations_uri is not None:
        figures |= answer_items(reader, job.conversations_uri)
        measured_one()
    if job.preferences_uri is not None:
        figures["preference_accuracy"] = preference_items(reader, job.preferences_uri)
        measured_one()
    for task_name, task in job.config.tasks.items():
        if not task.is_answered:
            judge = choice_items if task.kind == "multiple_choice" else pair_items
            figures |= grouped(f"task/{task_name}/accuracy", *judge(reader, task, read_task(task)[0]))
            measured_one()
    if job.reward_model_uri is not None:
        figures["reward_mean"] = reward_items(worker, job.reward_model_uri, tokenizer, job, name)
        measured_one()
    vocabulary = hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]
    return figures, {"num_parameters": model.num_parameters(), "vocabulary": vocabulary}


@dataclass(frozen=True)
class HeldoutDocuments:
    """Held-out text as one model's tokens."""

    shards: list[npt.NDArray[Any]]
    are_own: bool  # whether they are the ids of the artifact, and not its text encoded anew


def heldout_documents(worker: Worker, job: EvaluateJob, tokenizer: Any, uri: str) -> HeldoutDocuments:
    """The first `max_tokens` held-out tokens, or their text in the model's own tokens. Raises `InputError`."""
    shards, taken, remaining = open_shards(uri, heldout=True), [], job.config.max_tokens
    for shard in shards:
        taken.append(shard.tokens_T[:remaining])
        remaining -= len(taken[-1])
        if remaining <= 0:
            break
    if sum(len(tokens_T) for tokens_T in taken) < 2:
        raise InputError(f"{uri} has no held-out tokens; raise the tokenize stage's heldout_fraction")
    assert job.tokens_tokenizer_uri is not None
    from tokenizers import Tokenizer

    target = worker.scratch / "tokens_tokenizer.json"
    storage.download_file(storage.join(job.tokens_tokenizer_uri, "tokenizer.json"), target)
    theirs = Tokenizer.from_file(str(target))
    if theirs.get_vocab(with_added_tokens=True).items() <= tokenizer.get_vocab().items():
        return HeldoutDocuments(taken, are_own=True)
    documents, remaining = [], job.config.max_tokens
    for shard in shards:
        for row in range(len(shard)):
            if remaining > 0:
                text = theirs.decode(shard.document(row)[:remaining].tolist(), skip_special_tokens=True)
                ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
                end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
                documents.append(np.array([*ids, *end], np.uint32))
                remaining -= len(shard.document(row))
    return HeldoutDocuments([np.concatenate(documents)], are_own=False)


def token_items(reader: Reader, documents: HeldoutDocuments) -> dict[str, ItemValues]:
    """Loss in nats per token, for tokens of the artifact, and bits per byte; a window is an item."""
    sampler = TokenSampler(documents.shards, reader.config.sequence_length, seed=None)
    batch = sampler.batch(np.arange(sampler.num_samples))
    rows = []
    for inputs_T, labels_T in zip(batch.input_ids_BT.tolist(), batch.labels_BT.tolist(), strict=True):
        labels = [label for label in labels_T if label != IGNORE_INDEX]
        rows.append([inputs_T[0], *labels])
    logprobs, counts = reader.logprobs(rows, [[True] * len(row) for row in rows])
    # Windows of other tokens are of other text, so they are not compared one by one.
    prefix = "" if documents.are_own else "anew-"
    figures = {
        "heldout_bits_per_byte": values_of(
            (f"{prefix}{n}", f"{prefix}{n}", -logprob / _LN_2, reader.num_bytes(row[1:]))
            for n, (row, logprob) in enumerate(zip(rows, logprobs, strict=True))
        )
    }
    if documents.are_own:
        losses = (
            (str(n), str(n), -logprob, count) for n, (logprob, count) in enumerate(zip(logprobs, counts, strict=True))
        )
        figures = {"heldout_loss": values_of(losses), **figures}
    return figures


def answer_items(reader: Reader, conversations_uri: str) -> dict[str, ItemValues]:
    """Nats per answer token, and bits per byte of whole answers, of held-out conversations."""
    conversations = read_conversations(conversations_uri, "heldout")
    if not conversations:
        raise InputError(
            f"{conversations_uri} holds out no conversation; raise the conversations stage's heldout_fraction"
        )
    found = reader.encoder.encode_batch((c["messages"], c.get("tools")) for c in conversations)
    kept, rows = [], []
    for number, whole in enumerate(found):
        if not isinstance(whole, ChatRefused):
            row = whole.truncated(reader.config.max_length)
            if any(row.assistant_mask_T[1:]):
                kept.append((number, len(row.input_ids_T) == len(whole.input_ids_T)))
                rows.append(row)
    logprobs, counts = reader.logprobs([row.input_ids_T for row in rows], [row.assistant_mask_T for row in rows])
    losses: list[Row] = []
    bits: list[Row] = []
    for (number, is_whole), logprob, count in zip(kept, logprobs, counts, strict=True):
        messages = conversations[number]["messages"]
        cluster = next((m["content"] for m in messages if m["role"] == "user"), str(number))
        losses.append((str(number), cluster, -logprob, count))
        if is_whole:
            spoken = (m for m in messages if m["role"] == "assistant" and m.get("weight", 1) != 0)
            bits.append((str(number), cluster, -logprob / _LN_2, sum(len(m["content"].encode()) for m in spoken)))
    return {"heldout_answer_loss": values_of(losses), "heldout_answer_bits_per_byte": values_of(bits)}


def preference_items(reader: Reader, preferences_uri: str) -> ItemValues:
    """Whether the chosen answer of each held-out pair is the likelier one, by its summed log-probability."""
    rows = read_pairs(preferences_uri)[1]
    encoded = encode_pairs(reader.encoder, rows, max_length=reader.config.max_length)
    if not encoded.pairs:
        raise InputError(f"no held-out pair of {preferences_uri} has at most {reader.config.max_length} tokens")
    logprobs_P2 = _pair_logprobs(reader, encoded.pairs)
    items: dict[str, Row] = {}
    for row, (chosen, rejected) in zip(encoded.rows, logprobs_P2, strict=True):
        content = [row["prompt"], row["chosen"], row["rejected"]]
        item = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
        items.setdefault(item, (item, cluster_of(row["prompt"]), preferred(chosen, rejected), 1.0))
    return values_of(items.values())


def reward_items(worker: Worker, uri: str, tokenizer: Any, job: EvaluateJob, name: str) -> ItemValues:
    """What the reward model gives each sampled answer: to its tokens where it has the same ones, else to its text."""
    answers = answers_of(job.output, name, SAMPLED)
    with storage.local_copy(uri, worker.scratch) as local:
        own = load_tokenizer(local)
        model = load_reward_model(local).to(worker.device)
    if own.get_vocab() == tokenizer.get_vocab():
        sequences = [answer.prompt_ids + answer.answer_ids for answer in answers]
    else:
        answers, sequences = _finished(ChatEncoder(own), answers)
    scored = rewards(model, sequences, pad_token_id=model.config.pad_token_id, batch_size=job.config.batch_size)
    return values_of((a.item, a.cluster, reward, 1.0) for a, reward in zip(answers, scored.tolist(), strict=True))


def _finished(encoder: ChatEncoder, answers: Sequence[Answer]) -> tuple[list[Answer], list[list[int]]]:
    """(answers that the template takes, whole conversations as its tokens)."""
    kept, sequences = [], []
    for answer in answers:
        try:
            sequences.append(encoder.encode_finished([*answer.messages, *assistant(answer.answer)]))
        except ChatRefused:
            continue
        kept.append(answer)
    return kept, sequences


def _pair_logprobs(reader: Reader, pairs: Sequence[Any]) -> list[list[float]]:
    pad = reader.encoder.tokenizer.pad_token_id
    found: list[list[float]] = pair_logprobs(
        reader.model, pairs, pad_token_id=pad, batch_size=reader.config.batch_size
    ).tolist()
    return found
