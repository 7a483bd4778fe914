"""PPO, as one rank runs it, from top to bottom; `train` is what the orchestration calls.

An update: take prompts, have them answered by the policy servers and scored by the reward servers, train on the
answers, publish the new weights. Version v of the policy is what v updates made; every answer must carry the
version that the trainer holds.

A rank that dies takes all with it, and they start again at the newest checkpoint: weights, optimisers, version, the
figures of before, and the publication of these weights, since the servers may be ahead by then.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.records import RolloutClient, SamplingParams
from training.checkpoint.store import CheckpointStore
from training.engine.deepspeed_engine import engine_record
from training.export import commit_result, committed_result, describe_files, export_model
from training.launch.workers import Launcher, Worker, run_workers
from training.metrics.metrics_log import MetricsLog
from training.online.answers import answer_and_score
from training.online.config import PpoConfig
from training.online.critic import Critic
from training.online.heldout import HeldoutFigures, compare, evaluate
from training.online.learner import Learner
from training.online.prompts import prompts_of_update, read_prompts, request_seed, share_of_rank, spread_over
from training.tokenizers import end_of_turn_id

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class PpoJob:
    """What each worker is told."""

    config: PpoConfig
    policy_uri: str  # the model to start from, which is the reference too
    reward_model_uri: str
    output: str
    seed: int
    client: RolloutClient  # reaches the servers of both models


@dataclass(frozen=True)
class PpoOutcome:
    """What rank 0 gives back: the figures of the whole training, and what the engine was found to be."""

    metrics: dict[str, Any]
    engine: dict[str, Any]


def train(
    config: PpoConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    client: RolloutClient,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """Run PPO to its end, from the newest checkpoint below `output` where there is one.

    `client` reaches servers of the policy in `inputs["policy"]` and of the reward model in
    `inputs["reward_model"]`, and is pickled to every worker. `output` becomes the policy's Hugging Face directory,
    with `metrics.jsonl`. Raises `InputError` where policy and reward model differ in vocabulary, `StageFailed` where
    the checkpoint is of another number of workers, and what `launch` raises.
    """
    finished = committed_result(output)
    checkpoints = CheckpointStore(storage.join(output, CHECKPOINTS))
    if finished is None:
        _check_checkpoint(checkpoints, config)
        job = PpoJob(config, inputs["policy"].uri, inputs["reward_model"].uri, output, context.seed, client)
        outcome = launch(train_rank, job, config.workers, context, committed_steps=checkpoints.steps)
        finished = commit_result(output, StageResult(outcome.metrics, describe_files(output), outcome.engine))
    checkpoints.clear()
    return finished


def train_rank(worker: Worker, job: PpoJob) -> PpoOutcome | None:
    """What each rank does; rank 0 returns the outcome."""
    config, client, output, seed = job.config, job.client, job.output, job.seed
    with ExitStack() as stack:
        policy_path = stack.enter_context(storage.local_copy(job.policy_uri, worker.scratch))
        reward_path = stack.enter_context(storage.local_copy(job.reward_model_uri, worker.scratch))
        tokenizer = AutoTokenizer.from_pretrained(policy_path)
        _require_same_vocabulary(tokenizer, AutoTokenizer.from_pretrained(reward_path), job)
        learner = _build_learner(config, policy_path, reward_path)
    prompts = read_prompts(
        tokenizer,
        config.conversations,
        heldout_fraction=config.heldout_fraction,
        split_seed=config.split_seed,
        max_prompt_tokens=config.max_prompt_tokens,
    )
    sampling = SamplingParams(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        stop_token_ids=(end_of_turn_id(tokenizer),),
    )

    measure_heldout = partial(
        evaluate,
        learner,
        client,
        spread_over(prompts.heldout, config.heldout_prompts),
        sampling=sampling,
        samples_per_prompt=config.heldout_samples_per_prompt,
        seed=seed,
    )

    # Begin, or go on from the newest checkpoint.
    checkpoints = CheckpointStore(storage.join(output, CHECKPOINTS))
    restored = worker.scratch / "restored"
    checkpoint = checkpoints.restore(
        restored, ranks=lambda _: (0, worker.rank), share=worker.share, agree=worker.agree, note=worker.progress.note
    )
    if checkpoint is None:
        version = 0
        _publish(worker, learner, client, version)
        before = measure_heldout(version=version)
        _save_checkpoint(worker, learner, checkpoints, version, before)
    else:
        version, before = checkpoint.step, HeldoutFigures.from_json(checkpoint.state["before"])
        learner.load(restored)
        shutil.rmtree(restored)
        worker.progress.note(f"resuming from update {version}")
        _publish(worker, learner, client, version)
    log = MetricsLog(output, worker.scratch, first_step=version + 1) if worker.is_main else None

    # Update by update.
    stopped_early = False
    while version < config.updates:
        places = share_of_rank(
            config.prompts_per_update,
            rank=worker.rank,
            world_size=worker.world_size,
            num_minibatches=config.num_minibatches,
        )
        numbers = prompts_of_update(
            len(prompts.train), update=version, prompts_per_update=config.prompts_per_update, seed=seed
        )
        answers = answer_and_score(
            client,
            [prompts.train[numbers[place]] for place in places],
            [[request_seed(seed, version, place, s) for s in range(config.samples_per_prompt)] for place in places],
            sampling=sampling,
            version=version,
        )
        start = time.perf_counter()
        experience, figures = learner.experience(answers.rollouts, answers.scores_B)
        if config.kl_ceiling is not None and figures["kl"] > config.kl_ceiling:
            stopped_early = True
            worker.progress.note(
                f"stopping after {version} updates: the KL to the reference, {figures['kl']:.3g} nats per answer, "
                f"is above kl_ceiling {config.kl_ceiling:.3g}"
            )
            break
        figures |= learner.update(experience)
        trained = time.perf_counter()
        version += 1
        _publish(worker, learner, client, version)
        figures |= {
            "distinct_fraction": _distinct_fraction(answers.rollouts.answers()),
            "version": version,
            "seconds_generate": answers.seconds_generate,
            "seconds_score": answers.seconds_score,
            "seconds_train": trained - start,
            "seconds_publish": time.perf_counter() - trained,
        }
        if log is not None:
            log.append({"step": version, **figures})
        worker.progress.update(version, config.updates, "updates", reward=figures["reward"], kl=figures["kl"])
        if version % config.checkpoint_every == 0 and version < config.updates:
            if log is not None:
                log.publish()  # first: rows past a checkpoint are cut on resume, missing ones can't be made again
            _save_checkpoint(worker, learner, checkpoints, version, before)

    # What it came to.
    after = measure_heldout(version=version)
    state = learner.policy_state()
    if not worker.is_main:
        return None
    assert log is not None
    log.close()
    export_model(learner.policy.module, state, tokenizer_uri=job.policy_uri, output=output, scratch=worker.scratch)
    metrics = compare(before, after, kl_ceiling=config.kl_ceiling)
    metrics |= {
        "updates": version,
        "stopped_early": stopped_early,
        "train_prompts": len(prompts.train),
        "prompts_too_long": prompts.num_too_long,
    }
    return PpoOutcome(metrics, engine_record(learner.policy))


def _check_checkpoint(checkpoints: CheckpointStore, config: PpoConfig) -> None:
    """Raise `StageFailed` if an earlier attempt's checkpoint is of another number of workers: its parts don't fit."""
    checkpoint = checkpoints.latest()
    if checkpoint is not None and checkpoint.world_size != config.workers.num_workers:
        raise StageFailed(
            f"the checkpoint of update {checkpoint.step} was written by {checkpoint.world_size} workers; set "
            f"workers.num_workers ({config.workers.num_workers}) to that, or remove {checkpoints.uri} to start over"
        )


def _publish(worker: Worker, learner: Learner, client: RolloutClient, version: int) -> None:
    """Bring the servers to the weights that the trainer holds; no rank goes on before they are there."""
    state = learner.policy_state()
    if worker.is_main:
        client.publish(version, state)
    worker.barrier()


def _save_checkpoint(
    worker: Worker, learner: Learner, checkpoints: CheckpointStore, version: int, before: HeldoutFigures
) -> None:
    directory = worker.scratch / "checkpoint"
    learner.save(directory)
    checkpoints.save(
        version,
        directory,
        rank=worker.rank,
        world_size=worker.world_size,
        barrier=worker.barrier,
        state={"before": before.to_json()},
    )
    shutil.rmtree(directory)


def _build_learner(config: PpoConfig, policy_path: Path, reward_path: Path) -> Learner:
    policy = AutoModelForCausalLM.from_pretrained(policy_path, dtype="float32")
    if config.critic_init == "reward_model":
        critic = Critic.from_reward_model(
            AutoModelForSequenceClassification.from_pretrained(reward_path, dtype="float32")
        )
    else:
        critic = Critic.from_policy(AutoModelForCausalLM.from_pretrained(policy_path, dtype="float32"))
    return Learner(policy, critic, copy.deepcopy(policy), config=config)


def _require_same_vocabulary(policy: Any, reward_model: Any, job: PpoJob) -> None:
    """Answers go to the reward model as token ids, so both models must mean the same by them."""
    if policy.get_vocab() != reward_model.get_vocab():
        raise InputError(
            f"the policy ({job.policy_uri}) and the reward model ({job.reward_model_uri}) have different "
            "vocabularies; train the reward model from a model of the policy's tokenizer"
        )


def _distinct_fraction(answers: Sequence[tuple[int, ...]]) -> float:
    """The share of distinct answers among those of all ranks."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, list(answers))
    everyone = [answer for part in gathered for answer in part]
    return len(set(everyone)) / len(everyone)
