"""The dpo stage: direct preference optimisation, by TRL's `DPOTrainer` on preference pairs.

The model that training starts from is the reference. The implicit reward of an answer is
beta x (log p_policy - log p_reference) (Rafailov et al., 2023, eq. 5).

Shape letters: P pairs; 2 stands for (chosen, rejected).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.chat.encoder import ChatEncoder
from training.feedback.encoded_pairs import WINDOW_BATCHES, EncodedPair, read_encoded_pairs
from training.feedback.pair_baselines import pair_accuracy
from training.inference.sequence_scores import pair_logprobs
from training.launch.workers import Launcher, Worker, gather_over_ranks, run_workers, share
from training.models import load_model
from training.post_training.config import DpoConfig
from training.post_training.trl_stage import (
    TrlJob,
    check_max_length,
    check_weights,
    lora_config,
    run_job,
    train_and_export,
    trainer_arguments,
    training_rows,
)
from training.post_training.trl_trainer import stage_trainer
from training.tokenizers import load_tokenizer


def run(
    config: DpoConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    job = TrlJob(config, inputs["model"].uri, output, context.seed, inputs["preferences"].uri)
    return run_job(job, train, context, launch)


def train(worker: Worker, job: TrlJob[DpoConfig]) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    from trl import DPOConfig as TrlDpoConfig
    from trl import DPOTrainer

    class TokenisedDpoTrainer(DPOTrainer):
        """TRL's trainer on rows that are tokens already; it would render and tokenise them by itself."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    config = job.config
    losses = {"sigmoid": 1.0, "sft": config.sft_loss_weight}
    weights = {name: weight for name, weight in losses.items() if weight}
    arguments = trainer_arguments(
        TrlDpoConfig,
        job,
        worker,
        beta=config.beta,
        label_smoothing=config.label_smoothing,
        loss_type=list(weights),
        loss_weights=list(weights.values()),
    )
    with storage.local_copy(job.model_uri, worker.scratch) as local:
        check_weights(worker, local)
        tokenizer = load_tokenizer(local)
        model = load_model(local)
        reference = load_model(local) if config.lora is None else None  # adapters are switched off instead
    check_max_length(config, model)
    train_pairs, heldout_pairs = read_encoded_pairs(job.data_uri, ChatEncoder(tokenizer), max_length=config.max_length)
    trainer = stage_trainer(TokenisedDpoTrainer)(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=training_rows(
            [
                {"prompt_ids": p.prompt_ids, "chosen_ids": p.chosen_ids, "rejected_ids": p.rejected_ids}
                for p in train_pairs.pairs
            ],
            [pair.length for pair in train_pairs.pairs],
            job,
            window_batches=WINDOW_BATCHES,
        ),
        processing_class=tokenizer,
        peft_config=lora_config(config, task_type="CAUSAL_LM"),
    )
    trained = train_and_export(trainer, job, worker, load=load_model)

    before_P2, after_P2 = (
        logprobs_at(worker, uri, heldout_pairs.pairs, pad_token_id=tokenizer.pad_token_id)
        for uri in (job.model_uri, job.output)
    )
    if not worker.is_main:
        return None
    metrics = {
        "num_train_pairs": len(train_pairs.pairs),
        "num_heldout_pairs": len(heldout_pairs.pairs),
        "num_pairs_too_long": train_pairs.num_too_long + heldout_pairs.num_too_long,
        "num_pairs_refused": train_pairs.num_refused + heldout_pairs.num_refused,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        **heldout_figures(before_P2, after_P2, beta=config.beta),
    }
    return StageResult(metrics, trained.files, trained.engine)


def heldout_figures(
    before_P2: np.ndarray[Any, np.dtype[np.float64]], after_P2: np.ndarray[Any, np.dtype[np.float64]], *, beta: float
) -> dict[str, float]:
    """What training changed on the held-out pairs.

    `before_P2` and `after_P2` are the log-probabilities of chosen and rejected answers under the reference and under
    the trained policy. The implicit reward of an answer is `beta` times their difference. Before training both answers
    of every pair have reward 0, so the accuracy by reward is 0.5 then.
    """
    rewards_P2 = beta * (after_P2 - before_P2)
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    return {
        "heldout_preference_accuracy": pair_accuracy(margins_P),
        "heldout_reward_margin": float(margins_P.mean()),
        "heldout_chosen_reward": float(rewards_P2[:, 0].mean()),
        "heldout_rejected_reward": float(rewards_P2[:, 1].mean()),
        # By the plain log-probability, of the reference and of the policy.
        "heldout_logprob_accuracy_before": pair_accuracy(before_P2[:, 0] - before_P2[:, 1]),
        "heldout_logprob_accuracy": pair_accuracy(after_P2[:, 0] - after_P2[:, 1]),
    }


def logprobs_at(
    worker: Worker, uri: str, pairs: Sequence[EncodedPair], *, pad_token_id: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[P, 2] log-probabilities of chosen and rejected answers under the model at `uri`; each rank scores its share."""
    with storage.local_copy(uri, worker.scratch) as local:
        model = load_model(local).to(worker.device)
    scored_P2 = pair_logprobs(model, share(pairs, worker), pad_token_id=pad_token_id)
    return np.array(gather_over_ranks(worker, scored_P2.tolist()))
