"""The evaluate stage: models side by side, on the same tokens, prompts, pairs and seeds.

What is measured of each model: its loss on held-out text and on held-out answers, how often it prefers the chosen
answer of a held-out pair, and the answers it samples, with their rewards. One worker measures a whole model and commits
its figures at once, so a run that is killed goes on with the models that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.commit import CommittedPart, commit_part, committed_parts
from cluster.contracts.errors import InputError
from cluster.contracts.records import Conversation, Message
from cluster.contracts.tokens import open_shards
from training.conversations.artifact import read_conversations
from training.conversations.encoding import encode_rows
from training.data.sampler import TokenSampler
from training.evaluate.config import EvaluateConfig
from training.feedback.encoded_pairs import encode_pairs
from training.feedback.pair_baselines import pair_accuracy
from training.feedback.pairs import read_pairs
from training.inference import heldout
from training.inference.generate import generate_answers
from training.inference.sequence_scores import answer_logprobs, pair_logprobs, rewards
from training.launch.workers import Launcher, Worker, run_workers
from training.models import load_model, load_reward_model
from training.tokenizers import load_tokenizer


@dataclass(frozen=True)
class EvaluateJob:
    """What each worker is told."""

    config: EvaluateConfig
    models: dict[str, str]  # role -> URI
    tokens_uri: str
    conversations_uri: str
    reward_model_uri: str | None
    preferences_uri: str | None
    output: str
    seed: int


def run(
    config: EvaluateConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage: metrics are `{"models": {role: figures}, "samples": [...]}`."""
    job = EvaluateJob(
        config=config,
        models={role: inputs[role].uri for role in config.models()},
        tokens_uri=inputs["tokens"].uri,
        conversations_uri=inputs["conversations"].uri,
        reward_model_uri=inputs["reward_model"].uri if config.reward_model is not None else None,
        preferences_uri=inputs["preferences"].uri if config.preferences is not None else None,
        output=output,
        seed=context.seed,
    )
    launch(measure_models, job, config.workers, context)
    parts = committed_parts(output)
    metrics = {
        "models": {role: parts[role].metrics["figures"] for role in job.models},
        "samples": side_by_side({role: parts[role] for role in job.models}),
    }
    files = [file for role in job.models for file in parts[role].files.values()]
    return StageResult(metrics, files)


def side_by_side(parts: Mapping[str, CommittedPart]) -> list[dict[str, Any]]:
    """One entry per shown prompt, with the greedy and the sampled answer of every model."""
    first = next(iter(parts.values())).metrics["samples"]
    return [
        {
            "prompt": sample["prompt"],
            "answers": {role: part.metrics["samples"][row]["greedy"] for role, part in parts.items()},
            "sampled_answers": {role: part.metrics["samples"][row]["sampled"] for role, part in parts.items()},
        }
        for row, sample in enumerate(first)
    ]


def measure_models(worker: Worker, job: EvaluateJob) -> None:
    """What one worker does: it measures its models in turn, but for those that an earlier attempt committed."""
    done = committed_parts(job.output)
    mine = [role for i, role in enumerate(job.models) if i % worker.world_size == worker.rank]
    per_model = 3 + (job.preferences_uri is not None) + (job.reward_model_uri is not None)
    total, passed = per_model * len(job.models), 0

    def measured_one(count: int = 1) -> None:
        # Of rank 0, whose share is the largest; the others are about as far.
        nonlocal passed
        passed += count
        worker.progress.update(min(passed * worker.world_size, total), total, "measurements")

    for role in mine:
        if role in done:
            measured_one(per_model)
            continue
        measured = measure_model(worker, job, job.models[role], measured_one)
        with commit_part(job.output, role) as part:
            with part.open("answers", "answers.jsonl") as sink:
                sink.write(b"".join(orjson.dumps(answer) + b"\n" for answer in measured.answers))
            part.metrics.update(figures=measured.figures, samples=measured.samples)


def require_same_vocabulary(worker: Worker, job: EvaluateJob, uri: str, tokenizer: Any) -> None:
    """Raise `InputError` unless the model at `uri` has the first model's tokens: losses per token compare only then."""
    first = next(iter(job.models.values()))
    with storage.local_copy(first, worker.scratch) as local:
        if load_tokenizer(local).get_vocab() != tokenizer.get_vocab():
            raise InputError(f"the models {first} and {uri} have different vocabularies; evaluate them apart")


@dataclass(frozen=True)
class Measured:
    """What came out for one model."""

    figures: dict[str, float]
    samples: list[dict[str, str]]  # the prompts that the report shows, with the greedy and the sampled answer
    answers: list[dict[str, Any]]  # every sampled answer with its prompt, and its reward where there are rewards


def measure_model(worker: Worker, job: EvaluateJob, uri: str, measured_one: Callable[[], None]) -> Measured:
    """All figures of the model at `uri`, of which `measured_one` hears one by one.

    Raises `InputError` where there is nothing held out to measure on.
    """
    config = job.config
    with storage.local_copy(uri, worker.scratch) as local:
        tokenizer = load_tokenizer(local)
        model = load_model(local).to(worker.device)
    require_same_vocabulary(worker, job, uri, tokenizer)
    encoder = ChatEncoder(tokenizer)
    conversations = read_conversations(job.conversations_uri, "heldout")
    if not conversations:
        raise InputError(
            f"{job.conversations_uri} holds out no conversation; raise the conversations stage's heldout_fraction"
        )

    figures: dict[str, float] = {"num_parameters": model.num_parameters(), **token_figures(worker, job, model)}
    measured_one()
    figures["heldout_answer_loss"] = answer_loss(job, encoder, model, conversations)
    measured_one()
    if job.preferences_uri is not None:
        figures["preference_accuracy"] = preference_accuracy(job, encoder, model)
        measured_one()

    sampled = sample_answers(job, encoder, model, distinct_prompts(conversations)[: config.num_prompts])
    figures.update(answer_figures(sampled, stop_token_ids=encoder.stop_token_ids))
    measured_one()
    answers: list[dict[str, Any]] = [
        {"prompt": list(prompt), "answer": text} for prompt, text in zip(sampled.prompts, sampled.texts, strict=True)
    ]
    if job.reward_model_uri is not None:
        scored = answer_rewards(worker, job, sampled.sequences)
        figures["reward_mean"] = float(scored.mean())
        figures["reward_se"] = float(scored.std(ddof=1) / np.sqrt(len(scored)))
        answers = [{**row, "reward": float(reward)} for row, reward in zip(answers, scored, strict=True)]
        measured_one()
    samples = [
        {"prompt": prompt[-1]["content"], "greedy": likeliest, "sampled": text}
        for prompt, likeliest, text in zip(sampled.prompts, sampled.greedy_texts, sampled.texts, strict=False)
    ]
    return Measured(figures, samples, answers)


@dataclass(frozen=True)
class SampledAnswers:
    """A model's answers to prompts: one sampled to each, and the likeliest (greedy) to the first few."""

    prompts: Sequence[tuple[Message, ...]]
    prompt_ids: list[list[int]]
    answer_ids: list[list[int]]  # the stop token included where the model gave it
    texts: list[str]  # of `answer_ids`, without special tokens
    greedy_texts: list[str]  # of the first `num_samples` prompts

    @property
    def sequences(self) -> list[list[int]]:
        """Each prompt with its sampled answer, as token ids."""
        return [prompt + answer for prompt, answer in zip(self.prompt_ids, self.answer_ids, strict=True)]


def sample_answers(
    job: EvaluateJob, encoder: ChatEncoder, model: Any, prompts: Sequence[tuple[Message, ...]]
) -> SampledAnswers:
    """Have the model answer all prompts by sampling, and the first `num_samples` of them greedily as well."""
    config = job.config
    found = encoder.encode_prompts((prompt, None) for prompt in prompts)
    prompts = [prompt for prompt, ids in zip(prompts, found, strict=True) if not isinstance(ids, ChatRefused)]
    prompt_ids = [ids for ids in found if not isinstance(ids, ChatRefused)]
    if not prompt_ids:
        raise InputError("the chat template refuses every held-out prompt")
    tokenizer = encoder.tokenizer
    settings: dict[str, Any] = {
        "stop_token_ids": encoder.stop_token_ids,
        "pad_token_id": tokenizer.pad_token_id,
        "max_new_tokens": config.max_new_tokens,
        "seed": job.seed,
        "batch_size": config.batch_size,
    }
    sampled = generate_answers(model, prompt_ids, temperature=config.temperature, **settings)
    greedy = generate_answers(model, prompt_ids[: config.num_samples], temperature=None, **settings)
    texts, greedy_texts = (
        [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers] for answers in (sampled, greedy)
    )
    return SampledAnswers(prompts, prompt_ids, sampled, texts, greedy_texts)


def answer_figures(sampled: SampledAnswers, *, stop_token_ids: Sequence[int]) -> dict[str, float]:
    """How many answers were sampled, how many of them differ, how long they are and how many came to an end."""
    return {
        "num_sampled_answers": len(sampled.texts),
        "distinct_answer_fraction": len(set(sampled.texts)) / len(sampled.texts),
        "mean_answer_tokens": float(np.mean([len(ids) for ids in sampled.answer_ids])),
        "finished_fraction": float(np.mean([ids[-1] in stop_token_ids for ids in sampled.answer_ids])),
    }


def answer_loss(job: EvaluateJob, encoder: ChatEncoder, model: Any, conversations: Sequence[Conversation]) -> float:
    """Mean negative log-likelihood per answer token of held-out conversations, in nats."""
    rows = encode_rows(encoder, conversations, max_length=job.config.max_length).rows
    return answer_logprobs(
        model,
        [row.input_ids_T for row in rows],
        [row.assistant_mask_T for row in rows],
        pad_token_id=encoder.tokenizer.pad_token_id,
        batch_size=job.config.batch_size,
    ).nll()


def distinct_prompts(conversations: Sequence[Conversation]) -> list[tuple[Message, ...]]:
    """What stands before each first answer, every prompt once, in order of appearance."""
    prompts: dict[tuple[tuple[str, str], ...], tuple[Message, ...]] = {}
    for conversation in conversations:
        messages = conversation["messages"]
        first_answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        prompt = tuple(messages[:first_answer])
        prompts.setdefault(tuple((m["role"], m["content"]) for m in prompt), prompt)
    return list(prompts.values())


def token_figures(worker: Worker, job: EvaluateJob, model: Any) -> dict[str, float]:
    """Loss in nats per token on the first `max_tokens` of the held-out shards."""
    shards = [shard.tokens_T for shard in open_shards(job.tokens_uri, heldout=True)]
    remaining = job.config.max_tokens
    taken = []
    for tokens_T in shards:
        taken.append(tokens_T[:remaining])
        remaining -= len(taken[-1])
        if remaining <= 0:
            break
    if sum(len(tokens_T) for tokens_T in taken) < 2:
        raise InputError(f"{job.tokens_uri} has no held-out tokens; raise the tokenize stage's heldout_fraction")
    model.eval()
    measured = heldout.heldout_loss(
        model,
        TokenSampler(taken, job.config.sequence_length, seed=None),
        batch_size=job.config.batch_size,
        device=worker.device,
    )
    return {"heldout_loss": measured.mean, "heldout_tokens": measured.num_tokens}


def preference_accuracy(job: EvaluateJob, encoder: ChatEncoder, model: Any) -> float:
    """The share of held-out pairs whose chosen answer is the likelier one, by its summed log-probability."""
    assert job.preferences_uri is not None
    pairs = encode_pairs(encoder, read_pairs(job.preferences_uri)[1], max_length=job.config.max_length).pairs
    if not pairs:
        raise InputError(f"no held-out pair of {job.preferences_uri} has at most {job.config.max_length} tokens")
    logprobs_P2 = pair_logprobs(
        model, pairs, pad_token_id=encoder.tokenizer.pad_token_id, batch_size=job.config.batch_size
    )
    return pair_accuracy((logprobs_P2[:, 0] - logprobs_P2[:, 1]).numpy())


def answer_rewards(
    worker: Worker, job: EvaluateJob, sequences: Sequence[Sequence[int]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[N] what the reward model gives each prompt with its answer."""
    assert job.reward_model_uri is not None
    with storage.local_copy(job.reward_model_uri, worker.scratch) as local:
        model = load_reward_model(local).to(worker.device)
    scored = rewards(model, sequences, pad_token_id=model.config.pad_token_id, batch_size=job.config.batch_size)
    return np.asarray(scored.numpy(), dtype=np.float64)
