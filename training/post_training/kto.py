"""The kto stage: Kahneman-Tversky optimisation (Ethayarajh et al., 2024), by TRL's `KTOTrainer` on single answers.

It learns from answers that are wanted or not, and needs no pairs. How far the policy has moved is estimated on answers
put behind other prompts of the same forward pass, as TRL does it; so the micro-batch is part of the result.

Shape letters: N labelled answers.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from training.feedback.encoded_labels import EncodedLabel, read_encoded_labels
from training.inference.sequence_scores import answer_logprobs
from training.launch.workers import Launcher, Worker, gather_over_ranks, in_order, run_workers, share
from training.models import load_model
from training.post_training.adapters import load_for_adapters, lora_config, untied_config
from training.post_training.config import KtoConfig
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

Floats = npt.NDArray[np.float64]


def run(
    config: KtoConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    job = TrlJob(config, inputs["model"].uri, output, context.seed, context.name, inputs["preferences"].uri)
    return run_job(job, train, context, launch)


def train(worker: Worker, job: TrlJob[KtoConfig]) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    from trl import KTOConfig as TrlKtoConfig
    from trl import KTOTrainer

    class TokenisedKtoTrainer(KTOTrainer):
        """TRL's trainer on rows that are tokens already, with the reference's log-probabilities beside them."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    config = job.config
    with storage.local_copy(job.model_uri, worker.scratch) as local:
        check_weights(worker, local)
        encoder = load_encoder(local, **config.chat_settings())
        untied = untied_config(local, config.lora)
    training, heldout = read_encoded_labels(job.data_uri, encoder, max_length=config.max_length)
    order = training_order([len(label.sequence) for label in training.labels], job)
    load_base = partial(load_for_adapters, untied=untied)
    model_form = ModelForm(load_base, load_model, encoder)

    def logprobs(rows: Sequence[EncodedLabel], *, base: bool, dtype: torch.dtype = torch.float32) -> Floats:
        model = model_form.open(job, worker, base=base).to(dtype)
        return label_logprobs(
            worker, model, rows, pad_token_id=model_form.pad_token_id, batch_size=config.rank_micro_batch_size
        )

    def with_reference(
        labels: Sequence[EncodedLabel], order: Sequence[int], dtype: torch.dtype
    ) -> list[dict[str, Any]]:
        """TRL's rows, with the reference's log-probabilities of their own answers and of those put behind them."""
        rows = kto_rows(labels, order, micro_batch_size=config.rank_micro_batch_size)
        if not rows:
            return rows
        own_N = logprobs(labels, base=True, dtype=dtype)[list(order)]
        for row, own in zip(rows, own_N.tolist(), strict=True):
            row["ref_logps"] = own
        if config.loss_type == "kto":
            moved = [moved_label(row, max_length=config.max_length) for row in rows]
            for row, other in zip(rows, logprobs(moved, base=True, dtype=dtype).tolist(), strict=True):
                row["ref_KL_logps"] = other
        else:
            for row in rows:
                del row["KL_completion_ids"]
        return rows

    def new_trainer() -> Any:
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        train_rows = with_reference(training.labels, order, dtype)
        measured = range(len(heldout.labels)) if config.eval_every_steps else ()
        measured_rows = with_reference(heldout.labels, measured, dtype)
        gc.collect()
        arguments = trainer_arguments(
            TrlKtoConfig,
            job,
            worker,
            beta=config.beta,
            loss_type=config.loss_type,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
            precompute_ref_log_probs=True,
        )
        with storage.local_copy(job.model_uri, worker.scratch) as local:
            model = load_base(local)
        check_max_length(config, model)
        return stage_trainer(TokenisedKtoTrainer)(
            model=model,
            args=arguments,
            train_dataset=training_rows(train_rows, range(len(train_rows))),
            eval_dataset=heldout_rows(measured_rows, config),
            processing_class=encoder.tokenizer,
            peft_config=lora_config(config, task_type="CAUSAL_LM"),
        )

    trained = train_once(
        new_trainer, job, worker, model_form=model_form, rows=[label.sequence for label in training.labels]
    )
    before_N, after_N = (logprobs(heldout.labels, base=base) for base in (True, False))
    if not worker.is_main:
        return None
    metrics = {
        "num_train_labels": len(training.labels),
        "num_train_wanted": sum(label.label for label in training.labels),
        "num_trained_labels": len(set(order)),
        "num_heldout_labels": len(heldout.labels),
        "num_labels_too_long": training.num_too_long + heldout.num_too_long,
        "num_labels_refused": training.num_refused + heldout.num_refused,
        "num_labels_with_gaps": training.num_with_gaps + heldout.num_with_gaps,
        "num_labels_conflicting": training.num_conflicting + heldout.num_conflicting,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        **trained.best,
        **trained.export,
        **heldout_figures(config.beta * (after_N - before_N), [label.label for label in heldout.labels]),
    }
    return StageResult(metrics, trained.files, trained.engine)


def kto_rows(labels: Sequence[EncodedLabel], order: Sequence[int], *, micro_batch_size: int) -> list[dict[str, Any]]:
    """TRL's rows in the order of training; `KL_completion_ids` is the answer before, within a micro-batch."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(order), micro_batch_size):
        batch = [labels[number] for number in order[start : start + micro_batch_size]]
        rows += [
            {
                "prompt_ids": label.prompt_ids,
                "completion_ids": label.answer_ids,
                "KL_completion_ids": batch[place - 1].answer_ids,
                "label": label.label,
            }
            for place, label in enumerate(batch)
        ]
    return rows


def moved_label(row: Mapping[str, Any], *, max_length: int) -> EncodedLabel:
    """The row's prompt with another row's answer, cut where TRL cuts it."""
    room = max(0, max_length - len(row["prompt_ids"]))
    return EncodedLabel(row["prompt_ids"], row["KL_completion_ids"][:room], row["label"])


def label_logprobs(
    worker: Worker, model: Any, labels: Sequence[EncodedLabel], *, pad_token_id: int, batch_size: int
) -> Floats:
    """[N] log-probabilities of the answers under the model; each rank scores its share, and all have them all."""
    mine = share(labels, worker)
    scored = answer_logprobs(
        model,
        [label.sequence for label in mine],
        [[position >= len(label.prompt_ids) for position in range(len(label.sequence))] for label in mine],
        pad_token_id=pad_token_id,
        batch_size=batch_size,
    )
    return np.array(in_order(gather_over_ranks(worker, scored.logprobs_N.tolist()), worker), dtype=np.float64)


def heldout_figures(rewards_N: Floats, labels_N: Sequence[bool]) -> dict[str, float]:
    """What training changed on held-out answers, by their implicit rewards; empty where one kind is missing.

    `heldout_label_auc` is the share of (wanted, unwanted) answers of which the wanted one has the higher reward, ties
    counting half: 0.5 before training.
    """
    wanted = np.array(labels_N, dtype=bool)
    up, down = np.sort(rewards_N[wanted]), rewards_N[~wanted]
    if not len(up) or not len(down):
        return {}
    above = len(up) - np.searchsorted(up, down, side="right")
    level = np.searchsorted(up, down, side="right") - np.searchsorted(up, down, side="left")
    return {
        "heldout_label_auc": float((above + 0.5 * level).mean() / len(up)),
        "heldout_wanted_reward": float(up.mean()),
        "heldout_unwanted_reward": float(down.mean()),
    }
