"""The sft stage: supervised fine-tuning, by TRL's `SFTTrainer` on conversations, with the loss on the answers only.

Conversations are turned into tokens by `cluster/contracts/chat/`, as the server does it, and not by TRL. The
conversations stage splits them by first prompt, so that the held-out loss is one of prompts never seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.chat.encoder import EncodedConversation
from cluster.contracts.errors import InputError
from training.conversations.encoding import encode_once, remove_encoded
from training.inference.sequence_scores import answer_logprobs
from training.launch.workers import Launcher, Worker, run_workers, share, sum_over_ranks
from training.models import check_attention_within_documents, load_model
from training.post_training.adapters import load_for_adapters, lora_config, untied_config
from training.post_training.config import SftConfig
from training.post_training.trl_arguments import trainer_arguments
from training.post_training.trl_export import ModelForm
from training.post_training.trl_job import TrlJob
from training.post_training.trl_stage import (
    check_max_length,
    check_weights,
    is_measured,
    run_job,
    train_once,
    training_order,
)
from training.post_training.trl_trainer import stage_trainer
from training.tokenizers import load_encoder

_NUM_PROBES = 8  # rows by which an export of adapters may be held against the trained model


def run(
    config: SftConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    job = TrlJob(config, inputs["model"].uri, output, context.seed, context.name, inputs["conversations"].uri)
    return run_job(job, train, context, launch)


def train(worker: Worker, job: TrlJob[SftConfig]) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    from trl import SFTConfig as TrlSftConfig
    from trl import SFTTrainer

    config = job.config
    with storage.local_copy(job.model_uri, worker.scratch) as local:
        check_weights(worker, local)
        encoder = load_encoder(local, **config.chat_settings())
        untied = untied_config(local, config.lora)
    how: dict[str, Any] = {"max_length": config.max_length, "output": job.output}
    rows = encode_once(worker, encoder, job.data_uri, "train", **how)
    heldout = encode_once(worker, encoder, job.data_uri, "heldout", **how)
    unused, heldout_unused = rows.unused, heldout.unused
    if not rows:
        raise InputError(
            f"{job.data_uri} leaves no conversation to train on (max_length {config.max_length}): "
            f"{unused.num_without_answer} have no answer in it, and refused are {dict(unused.refused)}"
        )
    if unused.num_truncated:
        worker.progress.note(
            f"{unused.num_truncated:,} of {len(rows):,} conversations lose the end of their answers to max_length "
            f"{config.max_length}"
        )
    if unused.refused:
        worker.progress.note(f"{unused.num_refused:,} conversations are left out: {dict(unused.refused)}")
    order = training_order(rows.lengths, job)
    measured = is_measured(config, len(heldout))
    load_base = partial(load_for_adapters, untied=untied)

    def new_trainer() -> Any:
        if config.trl.get("packing"):
            check_packing(job, worker)
        # The rows are cut already, and TRL's preparation would copy them all into each rank's memory, once an epoch.
        is_prepared = not config.trl.get("packing")
        dataset_kwargs = {"skip_prepare_dataset": is_prepared}
        arguments = trainer_arguments(TrlSftConfig, job, worker, dataset_kwargs=dataset_kwargs)
        with storage.local_copy(job.model_uri, worker.scratch) as local:
            model = load_base(local)
        check_max_length(config, model)
        return stage_trainer(SFTTrainer)(
            model=model,
            args=arguments,
            train_dataset=rows.dataset(order),
            eval_dataset=heldout.dataset(range(len(heldout))) if measured else None,
            processing_class=encoder.tokenizer,
            peft_config=lora_config(config, task_type="CAUSAL_LM"),
        )

    model_form = ModelForm(load_base, load_model, encoder)
    trained = train_once(
        new_trainer, job, worker, model_form=model_form, rows=[row.input_ids_T for row in rows[:_NUM_PROBES]]
    )
    metrics: dict[str, Any] = {
        "num_train_conversations": len(rows),
        "num_trained_conversations": len(set(order)),
        "num_heldout_conversations": len(heldout),
        "num_without_answer": unused.num_without_answer + heldout_unused.num_without_answer,
        "num_refused": unused.num_refused + heldout_unused.num_refused,
        "num_truncated": unused.num_truncated + heldout_unused.num_truncated,
        "num_train_answer_tokens": rows.num_answer_tokens,
        "steps": trained.steps,
        "train_loss": trained.train_loss,
        **trained.best,
        **trained.export,
    }
    if heldout:
        for name, base in (("base_heldout_answer_loss", True), ("heldout_answer_loss", False)):
            model = model_form.open(job, worker, base=base)
            metrics[name] = answer_loss(
                worker,
                model,
                heldout,
                pad_token_id=encoder.tokenizer.pad_token_id,
                batch_size=config.rank_micro_batch_size,
            )
    worker.barrier()
    if not worker.is_main:
        return None
    remove_encoded(job.output)
    return StageResult(metrics, trained.files, trained.engine)


def check_packing(job: TrlJob[SftConfig], worker: Worker) -> None:
    """Raise `InputError` where the model would see, in a pack of conversations, those before a conversation."""
    if job.config.trl.get("packing_strategy", "bfd") == "wrapped":
        raise InputError("trl.packing_strategy: wrapped cuts conversations and joins them; take bfd")
    with storage.local_copy(job.model_uri, worker.scratch) as local:
        check_attention_within_documents(load_model(local))


def answer_loss(
    worker: Worker, model: Any, rows: Sequence[EncodedConversation], *, pad_token_id: int, batch_size: int
) -> float:
    """Mean negative log-likelihood per answer token (nats) of the model; each rank measures its share."""
    mine = share(rows, worker)
    measured = answer_logprobs(
        model,
        [r.input_ids_T for r in mine],
        [r.assistant_mask_T for r in mine],
        pad_token_id=pad_token_id,
        batch_size=batch_size,
    )
    logprob, num_tokens = sum_over_ranks(worker, float(measured.logprobs_N.sum()), float(measured.num_tokens_N.sum()))
    return -logprob / num_tokens
