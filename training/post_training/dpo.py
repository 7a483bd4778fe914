"""The dpo stage: direct preference optimisation, by TRL's `DPOTrainer` on preference pairs.

The model that training starts from is the reference. The implicit reward of an answer is
beta x (log p_policy - log p_reference) (Rafailov et al., 2023, eq. 5).

Shape letters: P pairs; 2 stands for (chosen, rejected).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from training.feedback.encoded_pairs import WINDOW_BATCHES, EncodedPair, read_encoded_pairs
from training.feedback.pair_baselines import pair_accuracy
from training.inference.sequence_scores import pair_logprobs
from training.launch.workers import Launcher, Worker, gather_over_ranks, in_order, run_workers, share
from training.models import load_model
from training.post_training.adapters import load_for_adapters, lora_config, untied_config
from training.post_training.answer_masks import MASK_COLUMNS, MaskedPairs, mask_columns
from training.post_training.config import DpoConfig
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


def run(
    config: DpoConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    job = TrlJob(config, inputs["model"].uri, output, context.seed, context.name, inputs["preferences"].uri)
    return run_job(job, train, context, launch)


def train(worker: Worker, job: TrlJob[DpoConfig]) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    from trl import DPOConfig as TrlDpoConfig
    from trl import DPOTrainer

    class TokenisedDpoTrainer(DPOTrainer):
        """TRL's trainer on rows that are tokens already; it would render and tokenise them by itself."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # which has them

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            self._signature_columns: Any = list(dict.fromkeys([*self._signature_columns, *MASK_COLUMNS]))

    config = job.config
    with storage.local_copy(job.model_uri, worker.scratch) as local:
        check_weights(worker, local)
        encoder = load_encoder(local, **config.chat_settings())
        untied = untied_config(local, config.lora)
    train_pairs, heldout_pairs = read_encoded_pairs(job.data_uri, encoder, max_length=config.max_length)
    order = training_order([pair.length for pair in train_pairs.pairs], job, window_batches=WINDOW_BATCHES)
    load_base = partial(load_for_adapters, untied=untied)
    model_form = ModelForm(load_base, load_model, encoder)

    def logprobs(pairs: Sequence[EncodedPair], *, base: bool, dtype: torch.dtype = torch.float32) -> Any:
        model = model_form.open(job, worker, base=base).to(dtype)
        return logprobs_of(
            worker, model, pairs, pad_token_id=encoder.tokenizer.pad_token_id, batch_size=config.rank_micro_batch_size
        )

    def new_trainer() -> Any:
        # The reference's log-probabilities are made once, in the number format that the policy trains in, and no
        # second model is held while it does. It comes first: from the arguments on, models are loaded in parts.
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        used = sorted(set(order))  # which may be few: of part of an epoch, the pairs of that part
        row_of = {number: row for row, number in enumerate(used)}
        used_pairs = [train_pairs.pairs[number] for number in used]
        used_P2 = logprobs(used_pairs, base=True, dtype=dtype)
        measured = heldout_pairs.pairs if config.eval_every_steps else []
        heldout_P2 = logprobs(measured, base=True, dtype=dtype) if measured else np.zeros((0, 2))
        gc.collect()
        losses = config.losses()
        arguments = trainer_arguments(
            TrlDpoConfig,
            job,
            worker,
            beta=config.beta,
            label_smoothing=config.label_smoothing,
            loss_type=list(losses),
            loss_weights=list(losses.values()),
            precompute_ref_log_probs=True,
        )
        with storage.local_copy(job.model_uri, worker.scratch) as local:
            model = load_base(local)
        check_max_length(config, model)
        trainer = stage_trainer(TokenisedDpoTrainer)(
            model=model,
            args=arguments,
            train_dataset=training_rows(rows_of(used_pairs, used_P2), [row_of[number] for number in order]),
            eval_dataset=heldout_rows(rows_of(measured, heldout_P2), config),
            processing_class=encoder.tokenizer,
            peft_config=lora_config(config, task_type="CAUSAL_LM"),
        )
        trainer.data_collator = MaskedPairs(trainer.data_collator)
        return trainer

    trained = train_once(
        new_trainer, job, worker, model_form=model_form, rows=[pair.chosen for pair in train_pairs.pairs]
    )
    before_P2, after_P2 = (logprobs(heldout_pairs.pairs, base=base) for base in (True, False))
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
        **trained.export,
        **heldout_figures(before_P2, after_P2, beta=config.beta),
    }
    return StageResult(metrics, trained.files, trained.engine)


def rows_of(pairs: Sequence[EncodedPair], reference_P2: np.ndarray[Any, np.dtype[np.float64]]) -> list[dict[str, Any]]:
    """Rows as TRL's trainer takes them, with the reference's log-probabilities of both answers."""
    return [
        {
            "prompt_ids": pair.prompt_ids,
            "chosen_ids": pair.chosen_ids,
            "rejected_ids": pair.rejected_ids,
            "ref_chosen_logps": chosen,
            "ref_rejected_logps": rejected,
            **masks,
        }
        for pair, masks, (chosen, rejected) in zip(pairs, mask_columns(pairs), reference_P2.tolist(), strict=True)
    ]


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


def logprobs_of(
    worker: Worker, model: Any, pairs: Sequence[EncodedPair], *, pad_token_id: int, batch_size: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[P, 2] log-probabilities of chosen and rejected answers under the model, in the pairs' order.

    Each rank scores its share, and all have them all.
    """
    scored_P2 = pair_logprobs(model, share(pairs, worker), pad_token_id=pad_token_id, batch_size=batch_size)
    return np.array(in_order(gather_over_ranks(worker, scored_P2.tolist()), worker)).reshape(-1, 2)
