"""The pre-training loop that every rank runs.

`train` reads top to bottom: open the data, build the model and its engine, go on from the newest checkpoint, take
optimizer steps, measure on held-out tokens, export. `Pretraining` holds what these parts share. The order of the data
does not depend on the number of workers (`training/data/sampler.py`), and a run that is killed goes on where it was,
on any number of workers. What the driver checks before all this stands in `stage.py`.

Shape letters: B sequences of a forward pass, T their length, V the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

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
from training.metrics.metrics_log import MetricsLog, open_stage_log
from training.models import check_attention_within_documents, check_looks_back_only, compile_layers
from training.pretrain.config import PretrainConfig
from training.pretrain.divergence import Verdict
from training.pretrain.flops import peak_flops, training_flops_per_token
from training.pretrain.job import (
    PretrainJob,
    build_model,
    check_checkpoint_data,
    checkpoint_identity,
    checkpoint_store,
    engine_settings,
)
from training.pretrain.open_data import open_heldout, open_training, tokens_of_what
from training.pretrain.run_state import RunState
from training.pretrain.step_meter import StepMeter
from training.schedules import SCHEDULES

_CHUNK_TOKENS = 1 << 22  # read at a time where all are counted


def train(worker: Worker, job: PretrainJob) -> StageResult | None:
    """What one rank does; rank 0 returns the stage's result."""
    run = Pretraining(worker, job)
    run.resume()
    run.take_steps()
    return run.finish()


@dataclass(frozen=True)
class Step:
    """What one optimizer step came to; the same on all ranks."""

    loss: float  # nats per label, over all ranks, before the weights changed
    lr: float
    grad_norm: float  # before clipping; not finite where the step was not applied
    batch_size: int  # sequences, over all ranks
    verdict: Verdict | None  # what is wrong with it; None where nothing is

    @property
    def applied(self) -> bool:
        """Whether the weights moved: a step that is skipped, or gone back from, leaves them as they were."""
        return self.verdict is None or self.verdict.action == "log"


class Pretraining:
    """One rank's run. All methods are collective: every rank calls them in the same order."""

    def __init__(self, worker: Worker, job: PretrainJob) -> None:
        """Open the data, and build the model and its engine. All ranks draw the same weights from the job's seed."""
        self.worker, self.job, self.config = worker, job, job.config
        config = job.config

        # Every rank maps all shards and reads only its samples.
        self.train_sampler = open_training(job, worker.progress)
        self.heldout_samplers = open_heldout(job, worker.progress)
        copy_tokenizer(job.tokenizer_uri, worker.scratch / "tokenizer")

        model = _build_trained_model(job, worker)
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.loss_sums = torch.compile(token_losses.plain_loss_sums) if config.compile else token_losses.loss_sums
        self.token_bytes_V = heldout.token_bytes(
            worker.scratch / "tokenizer" / "tokenizer.json", model.config.vocab_size
        )
        self.meter = StepMeter(
            flops_per_token=training_flops_per_token(model, config.sequence_length),
            peak_flops=worker.world_size * (config.peak_flops or device_peak_flops(worker.device, config.precision)),
            device=worker.device,
        )
        self.engine = build_engine(model, config=engine_settings(config))
        self.engine_record = engine_record(self.engine)
        self.num_steps, self.plan = config.num_steps, config.batch_plan
        self.tokens_per_pass = config.rank_micro_batch_size * config.sequence_length  # of one rank

        self.store = checkpoint_store(config, job.output)
        self.buffers = HostBuffers() if config.async_checkpoints else None
        self.state = RunState.new(config.divergence)
        self.resumed = False
        self.log: MetricsLog | None = None  # on rank 0

    def resume(self) -> None:
        """Go on from the newest checkpoint that is intact on all ranks, of any number of workers, if there is one.

        Then open the log and what writes checkpoints, from the step that the run is at.
        """
        worker = self.worker
        worker.heart.rest("loading a checkpoint")
        checkpoint = resume(self.engine, self.store, worker, seed=self.job.seed)
        self.resumed = checkpoint is not None
        if checkpoint is not None:
            check_checkpoint_data(checkpoint.state, self.job)
            saved = {**checkpoint.state, **(self.store.rewound(checkpoint.step) or {})}
            self.state = RunState.from_dict(checkpoint.step, saved, self.config.divergence)
        self.meter.seconds.update(self.state.seconds)
        self.state.seconds = self.meter.seconds  # which the meter adds to from here on
        if worker.is_main:
            self.log = open_log(self.job, worker, first_step=self.state.step)
            worker.closing.callback(self.log.close_trackers)
        self.checkpoints = worker.closing.enter_context(
            CheckpointWriter(
                self.store,
                rank=worker.rank,
                world_size=worker.world_size,
                attempt=agreed_attempt(),
                asynchronous=self.config.async_checkpoints,
            )
        )

    # ---------------------------------------------------------------------------------------------------- steps

    def take_steps(self) -> None:
        """Train to the last step, with measurements and checkpoints on the way."""
        state, config = self.state, self.config
        if not self.resumed and "rewind" in (config.divergence.not_finite, config.divergence.spike):
            self.save_checkpoint()  # so that there is always one to go back to
        self.batches = batches_ahead(self.job, self.worker, self.train_sampler, self.state)
        self.engine.train()
        while state.step < self.num_steps:
            self.checkpoints.check()
            self.meter.start(self.batches)
            step = self.train_step()
            costs = self.meter.finish(self.batches, num_tokens=step.batch_size * config.sequence_length)
            if step.verdict is not None:
                self.note_trouble(step.verdict)
                if step.verdict.action == "rewind":
                    self.go_back()
                    continue
            if step.applied:
                state.watch.accept(step.loss)
                state.train_loss = step.loss
            row: dict[str, Any] = {
                "step": state.step,
                "loss": step.loss,
                "lr": step.lr,
                "grad_norm": step.grad_norm,
                "batch_size": step.batch_size,
                **costs,
            }
            if self.log is not None and len(state.watch.history) > self.log.num_events:
                row["events"] = state.watch.history[self.log.num_events :]
            state.step += 1
            if self.is_measured(state.step):
                row.update(self.measure_heldout(config.eval_tokens))
            if self.log is not None:
                self.log.append(row)
            self.worker.progress.update(
                state.step, self.num_steps, "steps", loss=step.loss, tokens_per_s=costs["tokens_per_s"]
            )
            if state.step == self.num_steps or state.step % config.checkpoint_every_steps == 0:
                with self.meter.stalled():
                    self.save_checkpoint(row.get("heldout_loss"))
        self.batches.close()

    def train_step(self) -> Step:
        """Optimizer step `state.step`: its forward and backward passes, the verdict on its loss, the engine's update.

        Where the verdict is to skip the step or to go back, the weights stay as they are. Raises `StageFailed` where
        it is to stop.
        """
        config, worker, engine, step = self.config, self.worker, self.engine, self.state.step
        lr = SCHEDULES[config.schedule](
            step, lr=config.lr, min_lr=config.min_lr, warmup_steps=config.warmup_steps, total_steps=self.num_steps
        )
        set_lr(engine, lr)
        batch_size = self.plan.batch_size(step)
        set_global_batch_size(engine, batch_size)
        num_passes = batch_size // (config.rank_micro_batch_size * worker.world_size)

        totals = torch.zeros(2, device=worker.device)  # loss, labels
        verdict: Verdict | None = None
        loss = math.nan
        for number in range(num_passes):
            last = number == num_passes - 1
            objective = self.forward_pass(totals, last=last)
            worker.heart.beat(f"backward pass of step {step}")  # what comes now waits for the other ranks
            if last:
                # The step's loss is judged before its last backward pass, while the update can still be kept off.
                dist.all_reduce(totals)
                loss = (totals[0] / totals[1].clamp(min=1)).item()
                verdict = self.state.watch.judge(loss)
                if verdict is not None and verdict.action == "stop":
                    raise StageFailed(divergence_advice(verdict, step, config))
                if verdict is not None and verdict.action in ("skip", "rewind"):
                    objective = objective * math.nan  # no engine applies a gradient that isn't finite
            engine.backward(objective)
            engine.step()  # acts on the last pass of an optimizer step

        norm = gradient_norm(engine)
        if verdict is None or verdict.action == "log":
            verdict = self.state.watch.judge_gradient(norm) or verdict
        return Step(loss, lr, norm, batch_size, verdict)

    def forward_pass(self, totals: Tensor, *, last: bool) -> Tensor:
        """One micro-batch through the model; returns what is to be minimised, and adds to `totals` [loss, labels].

        `last` says whether it is the last pass of an optimizer step. The objective is divided by all positions,
        labelled or not, so the gradient does not depend on how samples are dealt out to ranks and passes.
        """
        step, device, heart = self.state.step, self.worker.device, self.worker.heart
        heart.beat(f"data of step {step}")
        batch = next(self.batches)
        heart.beat(f"forward pass of step {step}")
        begin_pass(self.engine, last=last)
        labels_BT = heldout.on_device(batch.labels_BT, device)
        logits_BTV = self.engine(**heldout.model_inputs(batch, device)).logits
        sums = self.loss_sums(logits_BTV, labels_BT)
        totals += torch.stack([sums.loss.detach(), (labels_BT != IGNORE_INDEX).sum()])
        objective = sums.loss / self.tokens_per_pass
        if self.config.z_loss_coef is not None:
            objective = objective + self.config.z_loss_coef * sums.z_loss / self.tokens_per_pass
        return objective

    # ------------------------------------------------------------------------------------------ steps gone wrong

    def note_trouble(self, verdict: Verdict) -> None:
        """Put a bad step on record and on the screen. Raises `StageFailed` where the verdict is to stop."""
        step = self.state.step
        self.state.watch.remember(step, verdict)
        self.worker.progress.note(f"step {step}: {verdict.message}; {ACTIONS[verdict.action]}")
        if verdict.action == "stop":
            raise StageFailed(divergence_advice(verdict, step, self.config))

    def go_back(self) -> None:
        """Return to an earlier checkpoint, and go on from it with the data behind the step that went wrong."""
        state = self.state
        next_sample = self.plan.first_sample(state.step + 1) + state.sample_offset
        self.batches.close()
        checkpoint = self.load_earlier_checkpoint()
        offset = next_sample - self.plan.first_sample(checkpoint.step)
        state.go_back(checkpoint.step, checkpoint.state, sample_offset=offset)
        if self.log is not None:
            self.store.rewind(state.step, state.rewound_dict())
            self.log.rewind(state.step)
        self.worker.barrier()
        self.batches = batches_ahead(self.job, self.worker, self.train_sampler, self.state)

    def load_earlier_checkpoint(self) -> Checkpoint:
        """Bring the engine to the newest checkpoint at least `divergence.rewind_steps` before `state.step`.

        Where there is none so old, the oldest there is. Raises `StageFailed` where there is none at all.
        """
        worker, step = self.worker, self.state.step
        worker.heart.rest(f"going back from step {step}")  # the checkpoint under way is waited for, another one loaded
        self.checkpoints.wait()
        worker.barrier()
        steps = self.store.steps()
        oldest = worker.share(steps[0] if steps else 0)
        at_most = max(oldest, step - self.config.divergence.rewind_steps)
        checkpoint = resume(self.engine, self.store, worker, seed=self.job.seed, at_most=at_most)
        if checkpoint is None:
            raise StageFailed(f"step {step} calls for going back, and there is no intact checkpoint; {self.store.uri}")
        return checkpoint

    # -------------------------------------------------------------------------- checkpoints and measurements

    def save_checkpoint(self, heldout_loss: float | None = None) -> None:
        """Begin a checkpoint of the state before `state.step`. The last one is waited for.

        `heldout_loss` is the one measured at this step, if any; `keep_best` chooses by it.
        """
        step = self.state.step
        self.worker.heart.rest(f"checkpoint of step {step}")  # which waits for the one before it to be stored
        self.checkpoints.save(
            step,
            lambda: engine_files(self.engine, self.buffers, scratch=self.worker.scratch),
            state={**self.state.to_dict(), **checkpoint_identity(self.job), "heldout_loss": heldout_loss},
            before_commit=self.log.publish if self.log is not None else lambda: None,
        )
        if step == self.num_steps:
            self.checkpoints.wait()

    def is_measured(self, step: int) -> bool:
        """Whether the run measures on the way after `step` steps.

        The end has a measurement of its own, of all held-out tokens; where the best checkpoints are kept, the last one
        is measured as the others were all the same.
        """
        config = self.config
        if not config.eval_every_steps or step % config.eval_every_steps or not self.heldout_samplers:
            return False
        return step < self.num_steps or config.keep_best > 0

    def measure_heldout(self, max_tokens: int | None = None) -> dict[str, Any]:
        """The figures of `heldout.source_figures`, on `max_tokens` tokens or all of them."""
        self.engine.eval()

        def loss_of(sampler: Sampler, max_samples: int | None) -> heldout.HeldoutLoss:
            return heldout.heldout_loss(
                self.engine,
                sampler,
                batch_size=self.config.rank_micro_batch_size,
                device=self.worker.device,
                rank=self.worker.rank,
                world_size=self.worker.world_size,
                all_sum=dist.all_reduce,
                max_samples=max_samples,
                token_bytes_V=self.token_bytes_V,
                beat=self.worker.heart.beat,
            )

        measured = heldout.losses_by_source(self.heldout_samplers, loss_of, max_tokens=max_tokens)
        self.engine.train()
        return heldout.source_figures(measured)

    # ------------------------------------------------------------------------------------------------------ end

    def finish(self) -> StageResult | None:
        """Measure at the end and export the model; on rank 0, commit the result, remove the checkpoints, return it."""
        job, worker = self.job, self.worker
        metrics = self.end_figures()
        if self.heldout_samplers:
            metrics.update(self.measure_heldout())
        state_dict = full_state_dict(self.engine)
        worker.heart.rest("export")
        if self.log is None:
            return None
        if self.heldout_samplers:
            metrics["unigram_entropy"] = heldout.unigram_entropy(
                sampler.stream.read(start, _CHUNK_TOKENS)
                for sampler in self.heldout_samplers.values()
                for start in range(0, sampler.num_tokens, _CHUNK_TOKENS)
            )
        files = export_model(
            self.engine.module, state_dict, tokenizer_uri=job.tokenizer_uri, output=job.output, scratch=worker.scratch
        )
        files = sorted([*files, self.log.close()], key=lambda file: file.name)
        result = commit_result(job.output, StageResult(metrics, files, self.engine_record))
        self.store.clear()
        return result

    def end_figures(self) -> dict[str, Any]:
        """What the training came to: loss, tokens and where they were from, speed, and what went wrong."""
        num_tokens = self.plan.first_sample(self.num_steps) * self.config.sequence_length
        metrics: dict[str, Any] = {
            "train_loss": self.state.train_loss,
            "steps": self.num_steps,
            "tokens": num_tokens,
            "tokens_of": tokens_of_what(self.job, self.train_sampler, num_tokens),
            "num_parameters": self.num_parameters,
            "padding_fraction": self.train_sampler.padding_fraction,
            **self.meter.summary(num_tokens),
        }
        if self.state.watch.history:
            metrics["divergence"] = self.state.watch.history
        return metrics


# --------------------------------------------------------------------------------------- what `Pretraining` uses


def _build_trained_model(job: PretrainJob, worker: Worker) -> Any:
    """The model to train on this rank's device, as the settings ask for it; its weights are the same on all ranks."""
    torch.manual_seed(job.seed)
    with storage.local_copy(job.initial_model_uri or job.tokenizer_uri, worker.scratch) as local:
        model = build_model(job, local, worker.scratch / "tokenizer").to(worker.device)
    check_looks_back_only(model)
    if job.config.attention == "within_documents":
        check_attention_within_documents(model)
    if job.config.activation_checkpointing:
        model.gradient_checkpointing_enable()
    if job.config.compile:
        compile_layers(model)
    return model


def batches_ahead(job: PretrainJob, worker: Worker, sampler: Sampler, state: RunState) -> Prefetcher[Batch]:
    """This rank's batches of all passes from `state.step` on, made ahead of need by a thread.

    What the thread holds must not lead back to the `Prefetcher`, or an exception in the loop would leave it waiting
    for ever; so this is no method of `Pretraining`, and takes what it needs of `state` now.
    """
    config, plan, first_step, sample_offset = job.config, job.config.batch_plan, state.step, state.sample_offset
    return Prefetcher(
        sampler.batch(numbers_B)
        for step in range(first_step, config.num_steps)
        for numbers_B in rank_samples(
            plan.first_sample(step) + sample_offset,
            global_batch_size=plan.batch_size(step),
            micro_batch_size=config.rank_micro_batch_size,
            rank=worker.rank,
            world_size=worker.world_size,
        )
    )


def open_log(job: PretrainJob, worker: Worker, *, first_step: int) -> MetricsLog:
    """`metrics.jsonl` and the trackers, from `first_step` on; for rank 0."""
    return open_stage_log(
        job.config,
        job.config.trackers,
        stage=job.stage,
        output=job.output,
        scratch=worker.scratch,
        first_step=first_step,
        note=worker.progress.note,
    )


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
