"""The reward_model stage: a reward model from preference pairs, trained by TRL's `RewardTrainer`.

With `compare: every_token` the loss compares the two answers after every token from the first that differs, instead of
after the last one only (`bradley_terry.py`).

The artifact is an `AutoModelForSequenceClassification` directory with one label. A conversation's score is read after
its last token that is no padding, so it does not depend on the side of the padding. Training sequences end with the
answer's end-of-turn token, as the answers that the model will have to score do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from training.conversations.prompt_answers import words
from training.feedback.encoded_pairs import WINDOW_BATCHES, EncodedPair, EncodedPairs, read_encoded_pairs
from training.feedback.pair_baselines import bag_of_words_accuracy, length_accuracy, pair_accuracy
from training.feedback.pairs import read_text_pairs
from training.inference.sequence_scores import rewards
from training.launch.workers import Launcher, Worker, gather_over_ranks, run_workers, share
from training.models import load_reward_model, load_under_new_head
from training.post_training.adapters import lora_config
from training.post_training.bradley_terry import first_difference, prefix_pair_losses
from training.post_training.config import RewardModelConfig
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
    train_pairs, heldout_pairs = read_encoded_pairs(
        job.data_uri, encoder, max_length=config.max_length, more_train_rows=read_text_pairs(job.data_uri)
    )
    order = training_order([pair.length for pair in train_pairs.pairs], job, window_batches=WINDOW_BATCHES)
    load_base = partial(new_reward_model, pad_token_id=encoder.tokenizer.pad_token_id, seed=job.seed)

    def new_trainer() -> Any:
        arguments = trainer_arguments(
            TrlRewardConfig, job, worker, center_rewards_coefficient=config.center_rewards_coefficient
        )
        with storage.local_copy(job.model_uri, worker.scratch) as local:
            model = load_base(local)
        check_max_length(config, model)
        return stage_trainer(trainer_class(config))(
            model=model,
            args=arguments,
            train_dataset=training_rows(rows_of(train_pairs.pairs), order),
            eval_dataset=heldout_rows(rows_of(heldout_pairs.pairs), config),
            processing_class=encoder.tokenizer,
            peft_config=lora_config(config, task_type="SEQ_CLS", modules_to_save=["score"]),
        )

    model_form = ModelForm(load_base, load_reward_model, encoder)
    trained = train_once(
        new_trainer, job, worker, model_form=model_form, rows=[pair.chosen for pair in train_pairs.pairs]
    )
    model = model_form.open(job, worker)
    measured = measure(worker, model, train_pairs, heldout_pairs, batch_size=config.rank_micro_batch_size)
    if not worker.is_main:
        return None
    metrics = {
        "num_train_pairs": len(train_pairs.pairs),
        "num_trained_pairs": len(set(order)),
        "num_heldout_pairs": len(heldout_pairs.pairs),
        "num_pairs_too_long": train_pairs.num_too_long + heldout_pairs.num_too_long,
        "num_pairs_refused": train_pairs.num_refused + heldout_pairs.num_refused,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        **trained.best,
        **measured,
        **baseline_accuracies(train_pairs, heldout_pairs),
    }
    return StageResult(metrics, trained.files, trained.engine)


def rows_of(pairs: Sequence[EncodedPair]) -> list[dict[str, Any]]:
    """Rows as TRL's trainer takes them."""
    return [{"chosen_ids": pair.chosen, "rejected_ids": pair.rejected} for pair in pairs]


def measure(
    worker: Worker, model: Any, train_pairs: EncodedPairs, heldout_pairs: EncodedPairs, *, batch_size: int
) -> dict[str, float]:
    """What the reward model makes of the held-out pairs, and of some training pairs; on all ranks.

    Of the training pairs, at most `NUM_TRAIN_PAIRS_MEASURED` are scored, at even distances.
    """
    heldout_chosen_P, heldout_rejected_P = pair_rewards(worker, model, heldout_pairs.pairs, batch_size=batch_size)
    every = -(-len(train_pairs.pairs) // NUM_TRAIN_PAIRS_MEASURED)
    train_chosen_P, train_rejected_P = pair_rewards(worker, model, train_pairs.pairs[::every], batch_size=batch_size)
    return {
        "heldout_pair_accuracy": pair_accuracy(heldout_chosen_P - heldout_rejected_P),
        "train_pair_accuracy": pair_accuracy(train_chosen_P - train_rejected_P),
        "heldout_chosen_reward_mean": float(heldout_chosen_P.mean()),
        "heldout_chosen_reward_std": float(heldout_chosen_P.std()),
        "heldout_rejected_reward_mean": float(heldout_rejected_P.mean()),
        "heldout_rejected_reward_std": float(heldout_rejected_P.std()),
    }


def new_reward_model(directory: Path, *, pad_token_id: int, seed: int) -> Any:
    """The body of the causal model in `directory` under a new score head, drawn from `seed`."""
    torch.manual_seed(seed)
    return load_under_new_head(directory, num_labels=1, pad_token_id=pad_token_id)


def trainer_class(config: RewardModelConfig) -> Any:
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
                # The head scores every position and the model then picks the last; we need them all. Hooked here,
                # after DeepSpeed's own hooks, so that the scores seen are the ones ZeRO-3 tracks.
                score = next(m for name, m in self.model.named_modules() if name.split(".")[-1] == "score")
                score.register_forward_hook(self._keep_scores)
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
            ).mean()
            return (loss, outputs) if return_outputs else loss

        def _keep_scores(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
            self._scores_PT1 = output

    return PrefixRewardTrainer


def pair_rewards(
    worker: Worker, model: Any, pairs: Sequence[EncodedPair], *, batch_size: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """([P], [P]) rewards of chosen and rejected conversations; each rank scores its share."""
    mine = share(pairs, worker)
    pad_token_id = model.config.pad_token_id
    columns = []
    for sequences in ([pair.chosen for pair in mine], [pair.rejected for pair in mine]):
        scored = rewards(model, sequences, pad_token_id=pad_token_id, batch_size=batch_size)
        columns.append(np.array(gather_over_ranks(worker, scored.tolist())))
    return columns[0], columns[1]


def baseline_accuracies(train: EncodedPairs, heldout: EncodedPairs) -> dict[str, float]:
    """Held-out accuracies of two judges that a reward model must beat: by lengths alone, and by words' counts alone."""
    texts = [
        [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in side.rows] for side in (train, heldout)
    ]
    return {
        "length_baseline_accuracy": length_accuracy(_length_differences(train), _length_differences(heldout)),
        "bag_of_words_baseline_accuracy": bag_of_words_accuracy(texts[0], texts[1]),
    }


def _length_differences(side: EncodedPairs) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[P, 3] how much longer the chosen answer is, in words, characters and tokens."""
    rows = []
    for row, pair in zip(side.rows, side.pairs, strict=True):
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        rows.append(
            (
                len(words(chosen)) - len(words(rejected)),
                len(chosen) - len(rejected),
                len(pair.chosen_ids) - len(pair.rejected_ids),
            )
        )
    return np.array(rows, dtype=np.float64)
