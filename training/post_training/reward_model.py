"""The reward_model stage: a reward model from pairs, rankings or scores, trained by TRL's `RewardTrainer`.

Pairs are TRL's own rows and loss. With `compare: every_token` the loss compares the two answers after every token from
the first that differs, instead of after the last one only (`bradley_terry.py`). Rankings, scores and weights take the
same trainer with other rows and losses (`comparison_trainer.py`).

The artifact is an `AutoModelForSequenceClassification` directory with one label. A conversation's score is read after
its last token that is no padding, so it does not depend on the side of the padding. Training sequences end with the
answer's end-of-turn token, as the answers that the model will have to score do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.reward_scale import REWARD_SCALE_FILE, RewardScale
from training.export import write_file
from training.feedback.encoded_pairs import WINDOW_BATCHES
from training.feedback.pair_baselines import pair_accuracy
from training.inference.sequence_scores import rewards
from training.launch.workers import Launcher, Worker, gather_over_ranks, run_workers, share
from training.models import load_reward_model, load_under_new_head
from training.post_training.adapters import lora_config
from training.post_training.bradley_terry import first_difference, prefix_pair_losses
from training.post_training.comparison_trainer import (
    GroupCollator,
    ScoreCollator,
    group_trainer_class,
    keep_scores,
    score_trainer_class,
)
from training.post_training.config import RewardModelConfig
from training.post_training.reward_data import Form, RewardData, read_reward_data
from training.post_training.reward_measures import (
    Floats,
    accuracy_by_subset,
    baseline_accuracies,
    calibration,
    kendall_tau,
)
from training.post_training.trl_arguments import trainer_arguments
from training.post_training.trl_export import ModelForm
from training.post_training.trl_job import TrlJob
from training.post_training.trl_stage import (
    check_max_length,
    check_weights,
    heldout_rows,
    run_job,
    train_once,
    training_order,
    training_rows,
)
from training.post_training.trl_trainer import stage_trainer
from training.tokenizers import load_encoder

NUM_ANSWERS_SCALED = 512
NUM_TRAIN_PAIRS_MEASURED = 128


def run(
    config: RewardModelConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    job = TrlJob(config, inputs["model"].uri, output, context.seed, context.name, inputs["preferences"].uri)
    return run_job(job, train, context, launch)


def train(worker: Worker, job: TrlJob[RewardModelConfig]) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    from trl import RewardConfig as TrlRewardConfig

    config = job.config
    with storage.local_copy(job.model_uri, worker.scratch) as local:
        check_weights(worker, local)
        encoder = load_encoder(local, **config.chat_settings(), pads_apart=True)
    pad_token_id = encoder.tokenizer.pad_token_id
    data = read_reward_data(job.data_uri, encoder, config)
    order = training_order(data.lengths, job, window_batches=WINDOW_BATCHES)
    load_base = partial(new_reward_model, pad_token_id=pad_token_id, seed=job.seed)

    def new_trainer() -> Any:
        arguments = trainer_arguments(
            TrlRewardConfig, job, worker, center_rewards_coefficient=config.center_rewards_coefficient
        )
        with storage.local_copy(job.model_uri, worker.scratch) as local:
            model = load_base(local)
        check_max_length(config, model)
        trainer_class, collator = trainer_of(data.form, config, pad_token_id)
        return stage_trainer(trainer_class)(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=training_rows(data.rows, order),
            eval_dataset=heldout_rows(data.heldout_rows, config),
            processing_class=encoder.tokenizer,
            peft_config=lora_config(config, task_type="SEQ_CLS", modules_to_save=["score"]),
        )

    model_form = ModelForm(load_base, load_reward_model, encoder)
    trained = train_once(new_trainer, job, worker, model_form=model_form, rows=data.sequences)
    model = model_form.open(job, worker)
    scores = partial(rewards_in_order, worker, model, batch_size=config.rank_micro_batch_size)
    measured = measure(data, scores)
    scale = reward_scale(scores(data.sequences[:: -(-len(data.sequences) // NUM_ANSWERS_SCALED)]), config)
    if not worker.is_main:
        return None
    metrics = {
        "num_train_pairs": len(data.train_pairs.pairs),
        "num_trained_pairs": len(set(order)),
        "num_heldout_pairs": len(data.heldout_pairs.pairs),
        **data.counts,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        **trained.best,
        **trained.export,
        **measured,
        "train_reward_mean": scale.mean,
        "train_reward_std": scale.std,
    }
    files = [*trained.files, write_file(job.output, REWARD_SCALE_FILE, scale.to_json())]
    return StageResult(metrics, files, trained.engine)


def trainer_of(form: Form, config: RewardModelConfig, pad_token_id: int) -> tuple[Any, Any]:
    """(class of the trainer, its collator) for rows of a form; None leaves TRL's own collator."""
    if form == "groups":
        return group_trainer_class(every_token=config.compare == "every_token"), GroupCollator(pad_token_id)
    if form == "scores":
        return score_trainer_class(), ScoreCollator(pad_token_id)
    return pair_trainer_class(config), None


def measure(data: RewardData, scores: Callable[[Sequence[Sequence[int]]], Floats]) -> dict[str, Any]:
    """What the reward model makes of the held-out rows, and of some training pairs; on all ranks.

    `scores` gives the rewards of conversations. Of the training pairs, at most `NUM_TRAIN_PAIRS_MEASURED` are scored,
    at even distances.
    """
    found: dict[str, Any] = {}
    heldout, train = data.heldout_pairs, data.train_pairs
    if heldout.pairs and train.pairs:
        chosen_P = scores([pair.chosen for pair in heldout.pairs])
        rejected_P = scores([pair.rejected for pair in heldout.pairs])
        some = train.pairs[:: -(-len(train.pairs) // NUM_TRAIN_PAIRS_MEASURED)]
        train_margins_P = scores([pair.chosen for pair in some]) - scores([pair.rejected for pair in some])
        bins, error = calibration(chosen_P - rejected_P)
        found |= {
            "heldout_pair_accuracy": pair_accuracy(chosen_P - rejected_P),
            "train_pair_accuracy": pair_accuracy(train_margins_P),
            "heldout_chosen_reward_mean": float(chosen_P.mean()),
            "heldout_chosen_reward_std": float(chosen_P.std()),
            "heldout_rejected_reward_mean": float(rejected_P.mean()),
            "heldout_rejected_reward_std": float(rejected_P.std()),
            "heldout_calibration_error": error,
            "calibration": bins,
            "accuracy_by_subset": accuracy_by_subset(heldout.rows, chosen_P - rejected_P),
            **baseline_accuracies(train, heldout),
        }
    if data.heldout_orders:
        given = scores([ids for sequences, _ in data.heldout_orders for ids in sequences]).tolist()
        taus = []
        for sequences, truth in data.heldout_orders:
            own, given = given[: len(sequences)], given[len(sequences) :]
            taus.append(kendall_tau(own, truth) or 0.0)
        found |= {"heldout_kendall_tau": float(np.mean(taus)), "num_heldout_rankings": len(taus)}
    if data.heldout_scored:
        rewards_N = scores([item.input_ids for item in data.heldout_scored])
        truth_N = np.array([item.score for item in data.heldout_scored])
        if rewards_N.std() > 0 and truth_N.std() > 0:
            found["heldout_score_correlation"] = float(np.corrcoef(rewards_N, truth_N)[0, 1])
    return found


def reward_scale(rewards_N: Floats, config: RewardModelConfig) -> RewardScale:
    """The scale of these rewards of training answers, applied where the settings say so."""
    return RewardScale(float(rewards_N.mean()), float(rewards_N.std()), len(rewards_N), config.normalize_rewards)


def rewards_in_order(worker: Worker, model: Any, sequences: Sequence[Sequence[int]], *, batch_size: int) -> Floats:
    """[N] the rewards of conversations, in their order; each rank scores its share, and all have them all."""
    mine = share(sequences, worker)
    scored = rewards(model, mine, pad_token_id=model.config.pad_token_id, batch_size=batch_size).tolist()
    gathered_N = np.array(gather_over_ranks(worker, scored), dtype=np.float64)
    in_order_N = np.empty_like(gathered_N)
    in_order_N[
        [number for rank in range(worker.world_size) for number in range(rank, len(sequences), worker.world_size)]
    ] = gathered_N
    return in_order_N


def new_reward_model(directory: Path, *, pad_token_id: int, seed: int) -> Any:
    """The body of the causal model in `directory` under a new score head, drawn from `seed`."""
    torch.manual_seed(seed)
    return load_under_new_head(directory, num_labels=1, pad_token_id=pad_token_id)


def pair_trainer_class(config: RewardModelConfig) -> Any:
    """TRL's trainer, or the one that compares prefixes."""
    from trl import RewardTrainer

    if config.compare == "last_token":
        return RewardTrainer

    class PrefixRewardTrainer(RewardTrainer):
        """TRL's trainer with the loss of `bradley_terry.prefix_pair_losses`; its metrics stay TRL's."""

        _scores_PT1: Any = None

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if self._scores_PT1 is None:
                keep_scores(self, self._keep_scores)  # the model itself gives that of the last position alone
            _, outputs = super().compute_loss(model, inputs, return_outputs=True)
            chosen_scores_PT, rejected_scores_PT = self._scores_PT1.squeeze(-1).float().chunk(2)
            chosen_ids_PT, rejected_ids_PT = inputs["input_ids"].chunk(2)
            chosen_lengths_P, rejected_lengths_P = inputs["attention_mask"].sum(dim=1).chunk(2)
            loss = prefix_pair_losses(
                chosen_scores_PT,
                rejected_scores_PT,
                first_difference(chosen_ids_PT, rejected_ids_PT),
                chosen_lengths_P,
                rejected_lengths_P,
                center_coefficient=self.args.center_rewards_coefficient or 0.0,
                margins_P=inputs.get("margin"),
            ).mean()
            return (loss, outputs) if return_outputs else loss

        def _keep_scores(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
            self._scores_PT1 = output

    return PrefixRewardTrainer
