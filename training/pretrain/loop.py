"""Pre-training: the stage, and the loop that every rank runs. Reads top to bottom.

`run` checks what can be checked, then has `train` run on every worker: build the model and its engine,
restore the newest checkpoint, step through the samples, measure on held-out tokens, export. The order of the
data does not depend on the number of workers (`sampler.py`), and a killed run goes on where it was.

Shape letters: B sequences of a forward pass, T their length, V the vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist

from cluster.contracts import storage
from cluster.contracts.artifacts import StageResult
from cluster.contracts.errors import StageFailed
from training import token_losses
from training.checkpoint.async_writer import CheckpointWriter, agreed_attempt
from training.checkpoint.store import Checkpoint
from training.data.prefetch import Prefetcher
from training.data.sampler import IGNORE_INDEX, Batch, Sampler, rank_samples
from training.engine.deepspeed_config import Precision
from training.engine.deepspeed_engine import (
    begin_pass,
    build_engine,
    engine_files,
    engine_record,
    full_state_dict,
    gradient_norm,
    set_global_batch_size,
    set_lr,
)
from training.engine.host_snapshot import HostBuffers
from training.engine.resume import resume
from training.export import commit_result, copy_tokenizer, export_model
from training.inference import heldout
from training.launch.workers import Worker
from training.metrics.metrics_log import MetricsLog
from training.metrics.trackers import open_trackers
from training.models import check_attention_within_documents, check_looks_back_only, compile_layers
from training.pretrain.config import PretrainConfig
from training.pretrain.divergence import LossWatch, Verdict
from training.pretrain.flops import peak_flops, training_flops_per_token
from training.pretrain.heldout_sources import figures as heldout_figures
from training.pretrain.heldout_sources import measure as measure_sources
from training.pretrain.job import (
    PretrainJob,
    build_model,
    check_checkpoint_data,
    checkpoint_store,
    engine_settings,
    model_name,
)
from training.pretrain.open_data import open_heldout, open_training, tokens_of_what
from training.pretrain.step_meter import StepMeter
from training.schedules import SCHEDULES

_CHUNK_TOKENS = 1 << 22  # read at a time where all are counted


def train(worker: Worker, job: PretrainJob) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    config = job.config

    # Data: every rank maps all shards and reads only its samples.
    train_sampler = open_training(job, worker.progress)
    heldout_samplers = open_heldout(job, worker.progress)
    copy_tokenizer(job.tokenizer_uri, worker.scratch / "tokenizer")

    # Model and engine. All ranks draw the same weights from the seed.
    torch.manual_seed(job.seed)
    with storage.local_copy(job.initial_model_uri or job.tokenizer_uri, worker.scratch) as local:
        model = build_model(job, local, worker.scratch / "tokenizer").to(worker.device)
    check_looks_back_only(model)
    if config.attention == "within_documents":
        check_attention_within_documents(model)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable()
    loss_sums = token_losses.loss_sums
    if config.compile:
        compile_layers(model)
        loss_sums = torch.compile(token_losses.plain_loss_sums)
    num_parameters = sum(p.numel() for p in model.parameters())
    token_bytes_V = heldout.token_bytes(worker.scratch / "tokenizer" / "tokenizer.json", model.config.vocab_size)
    meter = StepMeter(
        flops_per_token=training_flops_per_token(model, config.sequence_length),
        peak_flops=worker.world_size * (config.peak_flops or device_peak_flops(worker.device, config.precision)),
        device=worker.device,
    )
    engine = build_engine(model, config=engine_settings(config))
    record = engine_record(engine)

    # Resume by default: the newest checkpoint that is intact on all ranks, of any number of workers.
    store = checkpoint_store(config, job.output)
    worker.heart.rest("loading a checkpoint")
    restored = resume(engine, store, worker, seed=job.seed)
    step, sample_offset, train_loss = 0, 0, math.nan
    watch = LossWatch(config.divergence)
    if restored is not None:
        check_checkpoint_data(restored.state, job)
        step, state = restored.step, {**restored.state, **(store.rewound(restored.step) or {})}
        train_loss, sample_offset = state["train_loss"], state["sample_offset"]
        watch = LossWatch(config.divergence, **state["watch"])
        meter.seconds.update(state["seconds"])
    log = open_log(job, worker, first_step=step) if worker.is_main else None
    if log is not None:
        worker.closing.callback(log.close_trackers)
    num_steps, plan, schedule = config.num_steps, config.batch_plan, SCHEDULES[config.schedule]

    def measure(max_tokens: int | None = None) -> dict[str, Any]:
        """Held-out figures, on all ranks."""
        engine.eval()

        def loss_of(sampler: Sampler, max_samples: int | None) -> heldout.HeldoutLoss:
            return heldout.heldout_loss(
                engine,
                sampler,
                batch_size=config.rank_micro_batch_size,
                device=worker.device,
                rank=worker.rank,
                world_size=worker.world_size,
                all_sum=dist.all_reduce,
                max_samples=max_samples,
                token_bytes_V=token_bytes_V,
                beat=worker.heart.beat,
            )

        measured = measure_sources(heldout_samplers, loss_of, max_tokens=max_tokens)
        engine.train()
        return heldout_figures(measured)

    checkpoints = worker.closing.enter_context(
        CheckpointWriter(
            store,
            rank=worker.rank,
            world_size=worker.world_size,
            attempt=agreed_attempt(),
            asynchronous=config.async_checkpoints,
        )
    )
    buffers = HostBuffers() if config.async_checkpoints else None

    def save(heldout_loss: float | None = None) -> None:
        """Begin a checkpoint of the state before `step`, on all ranks. The last one is waited for.

        `heldout_loss` is the one measured at this step, if any.
        """
        worker.heart.rest(f"checkpoint of step {step}")  # which waits for the one before it to be stored
        state = {
            "seconds": dict(meter.seconds),
            "train_loss": train_loss,
            "heldout_loss": heldout_loss,
            "sample_offset": sample_offset,
            "watch": watch.state(),
            "tokens_fingerprint": job.tokens_fingerprint,
            "model": model_name(job),
            "zero_stage": config.zero_stage,
        }
        before_commit = log.publish if log is not None else lambda: None
        checkpoints.save(
            step,
            lambda: engine_files(engine, buffers, scratch=worker.scratch),
            state=state,
            before_commit=before_commit,
        )
        if step == num_steps:
            checkpoints.wait()

    tokens_per_pass = config.rank_micro_batch_size * config.sequence_length

    def batches_from(step: int, sample_offset: int) -> Prefetcher[Batch]:
        """This rank's batches of all passes from `step` on, made ahead of need."""
        return Prefetcher(
            train_sampler.batch(numbers_B)
            for ahead in range(step, num_steps)
            for numbers_B in rank_samples(
                plan.first_sample(ahead) + sample_offset,
                global_batch_size=plan.batch_size(ahead),
                micro_batch_size=config.rank_micro_batch_size,
                rank=worker.rank,
                world_size=worker.world_size,
            )
        )

    if restored is None and "rewind" in (config.divergence.not_finite, config.divergence.spike):
        save()  # so that there is always one to go back to
    batches = batches_from(step, sample_offset)
    engine.train()
    while step < num_steps:
        checkpoints.check()
        meter.start(batches)
        lr = schedule(
            step,
            lr=config.lr,
            min_lr=config.min_lr,
            warmup_steps=config.warmup_steps,
            total_steps=num_steps,
        )
        set_lr(engine, lr)
        batch_size = plan.batch_size(step)
        set_global_batch_size(engine, batch_size)
        num_passes = batch_size // (config.rank_micro_batch_size * worker.world_size)

        totals = torch.zeros(2, device=worker.device)  # loss, labels
        verdict: Verdict | None = None
        step_loss = math.nan
        for number in range(num_passes):
            worker.heart.beat(f"data of step {step}")
            batch = next(batches)
            worker.heart.beat(f"forward pass of step {step}")
            begin_pass(engine, last=number == num_passes - 1)
            labels_BT = heldout.on_device(batch.labels_BT, worker.device)
            logits_BTV = engine(**heldout.model_inputs(batch, worker.device)).logits
            sums = loss_sums(logits_BTV, labels_BT)
            totals += torch.stack([sums.loss.detach(), (labels_BT != IGNORE_INDEX).sum()])
            # Divided by all positions, labelled or not, so the gradient does not depend on how samples are dealt out.
            objective = sums.loss / tokens_per_pass
            if config.z_loss_coef is not None:
                objective = objective + config.z_loss_coef * sums.z_loss / tokens_per_pass
            worker.heart.beat(f"backward pass of step {step}")  # what comes now waits for the other ranks
            if number == num_passes - 1:
                dist.all_reduce(totals)
                step_loss = (totals[0] / totals[1].clamp(min=1)).item()
                verdict = watch.judge(step_loss)
                if verdict is not None and verdict.action in ("skip", "rewind"):
                    objective = objective * math.nan  # no engine applies a gradient that isn't finite
            if verdict is not None and verdict.action == "stop":
                raise StageFailed(divergence_advice(verdict, step, config))
            engine.backward(objective)
            engine.step()  # acts on the last pass of an optimizer step

        norm = gradient_norm(engine)
        if verdict is None or verdict.action == "log":
            verdict = watch.judge_gradient(norm) or verdict
        row = meter.finish(batches, num_tokens=batch_size * config.sequence_length)
        if verdict is not None:
            watch.remember(step, verdict)
            worker.progress.note(f"step {step}: {verdict.message}; {ACTIONS[verdict.action]}")
            if verdict.action == "stop":
                raise StageFailed(divergence_advice(verdict, step, config))
            if verdict.action == "rewind":
                past = plan.first_sample(step + 1) + sample_offset
                batches.close()
                restored = go_back(job, engine, checkpoints, worker, step)
                step = restored.step
                sample_offset = past - plan.first_sample(step)
                watch = watch.rewound(restored.state["watch"])
                if log is not None:
                    store.rewind(step, {"sample_offset": sample_offset, "watch": watch.state()})
                    log.rewind(step)
                worker.barrier()
                batches = batches_from(step, sample_offset)
                continue
        if verdict is None or verdict.action == "log":
            watch.accept(step_loss)
            train_loss = step_loss

        row = {"step": step, "loss": step_loss, "lr": lr, "grad_norm": norm, "batch_size": batch_size, **row}
        if log is not None and len(watch.history) > log.num_events:
            row["events"] = watch.history[log.num_events :]
        step += 1
        last = step == num_steps
        # All of them are measured at the end; the last checkpoint is judged like the others where the best are kept.
        judged = not last or config.keep_best > 0
        if config.eval_every_steps and step % config.eval_every_steps == 0 and heldout_samplers and judged:
            row.update(measure(config.eval_tokens))
        if log is not None:
            log.append(row)
        worker.progress.update(step, num_steps, "steps", loss=step_loss, tokens_per_s=row["tokens_per_s"])
        if last or step % config.checkpoint_every_steps == 0:
            with meter.stalled():
                save(row.get("heldout_loss"))
    batches.close()

    # What came of it.
    num_tokens = plan.first_sample(num_steps) * config.sequence_length
    metrics: dict[str, Any] = {
        "train_loss": train_loss,
        "steps": num_steps,
        "tokens": num_tokens,
        "tokens_of": tokens_of_what(job, train_sampler, num_tokens),
        "num_parameters": num_parameters,
        "padding_fraction": train_sampler.padding_fraction,
        **meter.summary(num_tokens),
    }
    if watch.history:
        metrics["divergence"] = watch.history
    if heldout_samplers:
        metrics.update(measure())
    state_dict = full_state_dict(engine)
    worker.heart.rest("export")
    if log is None:
        return None
    if heldout_samplers:
        metrics["unigram_entropy"] = heldout.unigram_entropy(
            sampler.stream.read(start, _CHUNK_TOKENS)
            for sampler in heldout_samplers.values()
            for start in range(0, sampler.num_tokens, _CHUNK_TOKENS)
        )
    files = export_model(
        engine.module, state_dict, tokenizer_uri=job.tokenizer_uri, output=job.output, scratch=worker.scratch
    )
    files = sorted([*files, log.close()], key=lambda file: file.name)
    result = commit_result(job.output, StageResult(metrics, files, record))
    store.clear()
    return result


# ------------------------------------------------------------------------------------------- what `train` uses


def open_log(job: PretrainJob, worker: Worker, *, first_step: int) -> MetricsLog:
    """`metrics.jsonl` and the trackers, from `first_step` on; for rank 0."""
    trackers = open_trackers(
        job.config.trackers,
        stage=job.stage,
        run_id=job.output.rstrip("/").rsplit("/", 1)[-1],
        output=job.output,
        scratch=worker.scratch,
        first_step=first_step,
        config=job.config.model_dump(mode="json", exclude_defaults=True),
        note=worker.progress.note,
    )
    return MetricsLog(job.output, worker.scratch, first_step=first_step, trackers=trackers)


def device_peak_flops(device: torch.device, precision: Precision) -> float:
    """FLOP/s of one worker's device in this precision."""
    return peak_flops(device, torch.bfloat16 if precision == "bf16" else torch.float32)[0]


ACTIONS = {
    "log": "going on",
    "skip": "the batch is skipped",
    "rewind": "going back to an earlier checkpoint, and past this data",
    "stop": "stopping",
}


def divergence_advice(verdict: Verdict, step: int, config: PretrainConfig) -> str:
    """What a run that stops for a bad step says."""
    if getattr(config.divergence, verdict.trouble) in ("skip", "rewind"):  # which came too often
        way_on = "a higher divergence.max_events lets this run go on"
    else:
        way_on = f"divergence.{verdict.trouble}: skip or rewind lets this run go on"
    return (
        f"{verdict.message} at step {step}; {way_on}, and a new one may do better with a lower lr ({config.lr}), more "
        f"warmup_steps ({config.warmup_steps}) or gradient_clipping ({config.gradient_clipping})"
    )


def go_back(job: PretrainJob, engine: Any, checkpoints: CheckpointWriter, worker: Worker, step: int) -> Checkpoint:
    """Bring the engine to the newest checkpoint `divergence.rewind_steps` before `step`, on all ranks.

    Where there is none so old, the oldest there is. Raises `StageFailed` where there is none at all.
    """
    worker.heart.rest(f"going back from step {step}")  # the checkpoint under way is waited for, another one loaded
    checkpoints.wait()
    worker.barrier()
    steps = checkpoints.store.steps()
    oldest = worker.share(steps[0] if steps else 0)
    at_most = max(oldest, step - job.config.divergence.rewind_steps)
    restored = resume(engine, checkpoints.store, worker, seed=job.seed, at_most=at_most)
    if restored is None:
        raise StageFailed(
            f"step {step} calls for going back, and there is no intact checkpoint; {checkpoints.store.uri}"
        )
    return restored
