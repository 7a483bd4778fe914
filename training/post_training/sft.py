"""The sft stage: supervised fine-tuning, by TRL's `SFTTrainer` on conversations, with the loss on the answers only.

Conversations are turned into tokens by `cluster/contracts/chat/`, as the server does it, and not by TRL. The
conversations stage splits them by first prompt, so that the held-out loss is one of prompts never seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.chat.encoder import ChatEncoder, EncodedConversation
from cluster.contracts.errors import InputError
from training.conversations.artifact import read_conversations
from training.conversations.encoding import encode_rows
from training.inference.sequence_scores import answer_logprobs
from training.launch.workers import Launcher, Worker, run_workers, share, sum_over_ranks
from training.models import load_model
from training.post_training.config import SftConfig
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
    config: SftConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    job = TrlJob(config, inputs["model"].uri, output, context.seed, inputs["conversations"].uri)
    return run_job(job, train, context, launch)


def train(worker: Worker, job: TrlJob[SftConfig]) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    from trl import SFTConfig as TrlSftConfig
    from trl import SFTTrainer

    config = job.config
    arguments = trainer_arguments(TrlSftConfig, job, worker, packing=False)
    with storage.local_copy(job.model_uri, worker.scratch) as local:
        check_weights(worker, local)
        tokenizer = load_tokenizer(local)
        model = load_model(local)
    check_max_length(config, model)
    conversations = read_conversations(job.data_uri, "train")
    encoder = ChatEncoder(tokenizer)
    training = encode_rows(encoder, conversations, max_length=config.max_length)
    heldout = encode_rows(encoder, read_conversations(job.data_uri, "heldout"), max_length=config.max_length)
    if not training.rows:
        raise InputError(
            f"{len(conversations)} conversations leave none to train on (max_length {config.max_length}): "
            f"{training.num_without_answer} have no answer in it, and refused are {dict(training.refused)}"
        )
    trainer = stage_trainer(SFTTrainer)(
        model=model,
        args=arguments,
        train_dataset=training_rows(
            [{"input_ids": row.input_ids_T, "labels": row.labels()} for row in training.rows],
            [len(row.input_ids_T) for row in training.rows],
            job,
        ),
        processing_class=tokenizer,
        peft_config=lora_config(config, task_type="CAUSAL_LM"),
    )
    trained = train_and_export(trainer, job, worker, load=load_model)

    metrics: dict[str, Any] = {
        "num_train_conversations": len(training.rows),
        "num_heldout_conversations": len(heldout.rows),
        "num_without_answer": training.num_without_answer + heldout.num_without_answer,
        "num_refused": training.num_refused + heldout.num_refused,
        "num_truncated": training.num_truncated + heldout.num_truncated,
        "num_train_answer_tokens": sum(sum(row.assistant_mask_T) for row in training.rows),
        "steps": trained.steps,
        "train_loss": trained.train_loss,
    }
    if heldout.rows:
        for name, uri in (("base_heldout_answer_loss", job.model_uri), ("heldout_answer_loss", job.output)):
            metrics[name] = answer_loss(worker, uri, heldout.rows, pad_token_id=tokenizer.pad_token_id)
    if not worker.is_main:
        return None
    return StageResult(metrics, trained.files, trained.engine)


def answer_loss(worker: Worker, uri: str, rows: Sequence[EncodedConversation], *, pad_token_id: int) -> float:
    """Mean negative log-likelihood per answer token (nats) of the model at `uri`; each rank measures its share."""
    with storage.local_copy(uri, worker.scratch) as local:
        model = load_model(Path(local)).to(worker.device)
    mine = share(rows, worker)
    measured = answer_logprobs(
        model, [r.input_ids_T for r in mine], [r.assistant_mask_T for r in mine], pad_token_id=pad_token_id
    )
    logprob, num_tokens = sum_over_ranks(worker, float(measured.logprobs_N.sum()), float(measured.num_tokens_N.sum()))
    return -logprob / num_tokens
