"""PPO: what the orchestration calls (`train`), and what one rank runs (`train_rank`, by a `PpoTraining`).

An update takes prompts, has them answered by the policy servers and scored by the reward servers, trains on the
answers, and publishes the new weights to the servers. Version v of the policy is what v updates made. Every answer must
carry the version that the trainer holds, or the update would be wrong.

A rank that dies takes all others with it, and they start again at the newest checkpoint. It brings back weights,
optimizers, version and the figures of before training. The weights are published again too, since the servers may be
ahead of them by then.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.errors import InputError
from cluster.contracts.hashing import derived_seed
from cluster.contracts.records import RolloutClient, SamplingParams
from training.checkpoint.store import CheckpointStore
from training.conversations.prompts import spread_over
from training.engine.deepspeed_engine import engine_record
from training.export import commit_result, committed_result, describe_files, export_model
from training.launch.workers import Launcher, Worker, run_workers
from training.metrics.metrics_log import MetricsLog
from training.models import load_model, load_reward_model
from training.online.answers import ScoredAnswers, answer_and_score
from training.online.config import PpoConfig
from training.online.critic import Critic
from training.online.heldout import HeldoutFigures, compare, evaluate
from training.online.learner import Learner
from training.online.prompts import prompts_of_update, read_prompts, share_of_rank
from training.tokenizers import load_tokenizer


@dataclass(frozen=True)
class PpoJob:
    """What each worker is told."""

    config: PpoConfig
    policy_uri: str  # the model to start from, which is the reference too
    reward_model_uri: str
    conversations_uri: str
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
    checkpoints = CheckpointStore.of_stage(output)
    if finished is None:
        checkpoints.require_world_size(config.workers.num_workers)
        job = PpoJob(
            config=config,
            policy_uri=inputs["policy"].uri,
            reward_model_uri=inputs["reward_model"].uri,
            conversations_uri=inputs["conversations"].uri,
            output=output,
            seed=context.seed,
            client=client,
        )
        outcome = launch(train_rank, job, config.workers, context, committed_steps=checkpoints.steps)
        finished = commit_result(output, StageResult(outcome.metrics, describe_files(output), outcome.engine))
    checkpoints.clear()
    return finished


def train_rank(worker: Worker, job: PpoJob) -> PpoOutcome | None:
    """What each rank does; rank 0 returns the outcome."""
    training = PpoTraining(worker, job)
    training.begin()
    training.take_updates()
    return training.finish()


class PpoTraining:
    """One rank's part in a training by PPO. All methods are collective: every rank calls them in the same order."""

    def __init__(self, worker: Worker, job: PpoJob) -> None:
        """Load the models and read the prompts. Raises `InputError` where the two models differ in vocabulary."""
        self.worker, self.job, self.config, self.client = worker, job, job.config, job.client
        config = job.config
        with ExitStack() as stack:
            policy_path = stack.enter_context(storage.local_copy(job.policy_uri, worker.scratch))
            reward_path = stack.enter_context(storage.local_copy(job.reward_model_uri, worker.scratch))
            tokenizer = load_tokenizer(policy_path)
            _require_same_vocabulary(tokenizer, load_tokenizer(reward_path), job)
            self.learner = _build_learner(config, policy_path, reward_path)
        self.encoder = ChatEncoder(tokenizer)
        self.prompts = read_prompts(
            self.encoder,
            job.conversations_uri,
            max_prompt_tokens=config.max_prompt_tokens,
        )
        self.sampling = SamplingParams(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            stop_token_ids=self.encoder.stop_token_ids,
        )
        self.checkpoints = CheckpointStore.of_stage(job.output)
        self.version = 0  # updates made, which is the version of the weights
        self.stopped_early = False

    def begin(self) -> None:
        """Go on from the newest checkpoint, or measure the policy as it is and make the first checkpoint."""
        worker, restored = self.worker, self.worker.scratch / "restored"
        checkpoint = self.checkpoints.restore(
            restored,
            ranks=lambda _: (0, worker.rank),
            share=worker.share,
            agree=worker.agree,
            note=worker.progress.note,
        )
        if checkpoint is None:
            self.publish()
            self.before = self.measure_heldout()
            self.save_checkpoint()
        else:
            self.version, self.before = checkpoint.step, HeldoutFigures.from_json(checkpoint.state["before"])
            self.learner.load(restored)
            shutil.rmtree(restored)
            worker.progress.note(f"resuming from update {self.version}")
            self.publish()
        first_step = self.version + 1
        self.log = MetricsLog(self.job.output, worker.scratch, first_step=first_step) if worker.is_main else None

    def take_updates(self) -> None:
        """Train until `config.updates` updates are made, or the policy leaves the KL ceiling."""
        config, worker = self.config, self.worker
        while self.version < config.updates:
            figures = self.update()
            if figures is None:
                self.stopped_early = True
                break
            if self.log is not None:
                self.log.append({"step": self.version, **figures})
            worker.progress.update(self.version, config.updates, "updates", reward=figures["reward"], kl=figures["kl"])
            if self.version % config.checkpoint_every == 0 and self.version < config.updates:
                if self.log is not None:
                    # First: rows past a checkpoint are cut on resume, missing ones can't be made again.
                    self.log.publish()
                self.save_checkpoint()

    def update(self) -> dict[str, float] | None:
        """Make one update and publish its weights; returns its figures.

        None where the policy is above the KL ceiling: then nothing is trained, and the policy stays as it is.
        """
        answers = self.sample_answers()
        start = time.perf_counter()
        experience, figures = self.learner.experience(answers.rollouts, answers.scores_B)
        ceiling = self.config.kl_ceiling
        if ceiling is not None and figures["kl"] > ceiling:
            self.worker.progress.note(
                f"stopping after {self.version} updates: the KL to the reference, {figures['kl']:.3g} nats per answer, "
                f"is above kl_ceiling {ceiling:.3g}"
            )
            return None
        figures |= self.learner.update(experience)
        trained = time.perf_counter()
        self.version += 1
        self.publish()
        return figures | {
            "distinct_fraction": _distinct_fraction(answers.rollouts.answers()),
            "version": self.version,
            "seconds_generate": answers.seconds_generate,
            "seconds_score": answers.seconds_score,
            "seconds_train": trained - start,
            "seconds_publish": time.perf_counter() - trained,
        }

    def sample_answers(self) -> ScoredAnswers:
        """This rank's share of the next update's prompts, answered and scored by the servers."""
        config, seed, version = self.config, self.job.seed, self.version
        places = share_of_rank(
            config.prompts_per_update,
            rank=self.worker.rank,
            world_size=self.worker.world_size,
            num_minibatches=config.num_minibatches,
        )
        numbers = prompts_of_update(
            len(self.prompts.train), update=version, prompts_per_update=config.prompts_per_update, seed=seed
        )
        return answer_and_score(
            self.client,
            [self.prompts.train[numbers[place]] for place in places],
            [[derived_seed(seed, version, place, s) for s in range(config.samples_per_prompt)] for place in places],
            sampling=self.sampling,
            version=version,
        )

    def measure_heldout(self) -> HeldoutFigures:
        """The policy on the held-out prompts, as it is now; the servers must hold the same weights."""
        return evaluate(
            self.learner,
            self.client,
            spread_over(self.prompts.heldout, self.config.heldout_prompts),
            sampling=self.sampling,
            samples_per_prompt=self.config.heldout_samples_per_prompt,
            version=self.version,
            seed=self.job.seed,
        )

    def publish(self) -> None:
        """Bring the servers to the weights that the trainer holds; no rank goes on before they are there."""
        state = self.learner.policy_state()
        if self.worker.is_main:
            self.client.publish(self.version, state)
        self.worker.barrier()

    def save_checkpoint(self) -> None:
        """Commit a checkpoint of this version, with the figures of before training."""
        directory = self.worker.scratch / "checkpoint"
        self.learner.save(directory)
        self.checkpoints.save(
            self.version,
            directory,
            rank=self.worker.rank,
            world_size=self.worker.world_size,
            barrier=self.worker.barrier,
            state={"before": self.before.to_json()},
        )
        shutil.rmtree(directory)

    def finish(self) -> PpoOutcome | None:
        """Measure the policy after training, and export it; rank 0 returns what the training came to."""
        after = self.measure_heldout()
        state = self.learner.policy_state()
        if self.log is None:
            return None
        self.log.close()
        engine, job = self.learner.policy, self.job
        export_model(
            engine.module,
            state,
            tokenizer_uri=job.policy_uri,
            output=job.output,
            scratch=self.worker.scratch,
            encoder=self.encoder,
        )
        metrics = compare(self.before, after, kl_ceiling=self.config.kl_ceiling)
        metrics |= {
            "updates": self.version,
            "stopped_early": self.stopped_early,
            "train_prompts": len(self.prompts.train),
            "prompts_too_long": self.prompts.num_too_long,
            "prompts_refused": self.prompts.num_refused,
        }
        return PpoOutcome(metrics, engine_record(engine))


def _build_learner(config: PpoConfig, policy_path: Path, reward_path: Path) -> Learner:
    policy = load_model(policy_path)
    if config.critic_init == "reward_model":
        critic = Critic.from_reward_model(load_reward_model(reward_path))
    else:
        critic = Critic.from_policy(load_model(policy_path))
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
