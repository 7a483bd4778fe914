"""Pre-training: the stage, and the loop that every rank runs. Reads top to bottom.

`run` checks what can be checked, then has `train` run on every worker: build the model and its engine,
restore the newest checkpoint, step through the samples, measure on held-out tokens, export. The order of the
data does not depend on the number of workers (`sampler.py`), and a killed run goes on where it was.

Shape letters: B sequences of a forward pass, T their length, V the vocabulary.
"""

from __future__ import annotations

import io
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from cluster.contracts import storage
from cluster.contracts.artifacts import Artifact, StageContext, StageResult
from cluster.contracts.errors import InputError, StageFailed
from cluster.contracts.progress import Progress, SilentProgress
from cluster.contracts.tokens import ShardEntry, TokenShard, open_shards, read_token_index, shard_uris
from training import heldout
from training.checkpoints import CheckpointStore
from training.engine import (
    build_engine,
    deepspeed_config,
    engine_record,
    full_state_dict,
    load_engine,
    save_engine,
    set_lr,
)
from training.export import (
    commit_result,
    committed_result,
    copy_tokenizer,
    export_model,
)
from training.metrics_log import MetricsLog
from training.models import check_sequence_length, load_model, model_config, new_model
from training.packing import STRIPES, WINDOW_SAMPLES, BestFitSampler, PackingWindows, window_sizes
from training.pretrain_config import PretrainConfig
from training.sampler import IGNORE_INDEX, Sampler, TokenSampler, rank_samples
from training.schedules import SCHEDULES
from training.shard_cache import ShardCache, check_budget, default_directory
from training.token_stream import StoredTokens, TokenStream
from training.workers import Launcher, Worker, run_workers

_SHOWN_SOURCES = 100  # in the record of what was trained on; those with most tokens


@dataclass(frozen=True)
class PretrainJob:
    """What each worker is told."""

    config: PretrainConfig
    tokens_uri: str
    tokens_fingerprint: str
    tokenizer_uri: str
    initial_model_uri: str | None
    output: str
    seed: int


def run(
    config: PretrainConfig,
    inputs: Mapping[str, Artifact],
    output: str,
    context: StageContext,
    *,
    launch: Launcher = run_workers,
) -> StageResult:
    """The stage. With `launch=run_in_process` it needs no Ray."""
    finished = committed_result(output)
    if finished is not None:
        CheckpointStore(storage.join(output, "checkpoints")).clear()
        return finished
    initial_model = inputs.get("initial_model")
    job = PretrainJob(
        config=config,
        tokens_uri=inputs["tokens"].uri,
        tokens_fingerprint=inputs["tokens"].manifest.fingerprint,
        tokenizer_uri=inputs["tokenizer"].uri,
        initial_model_uri=initial_model.uri if initial_model is not None else None,
        output=output,
        seed=config.seed if config.seed is not None else context.seed,
    )
    tokenizer_size = check_model(job, context.scratch)
    check_data(job, inputs["tokens"], inputs["tokenizer"], tokenizer_size)
    engine_settings(config)  # a `deepspeed:` block that contradicts the stage is refused here
    check_checkpoint(checkpoint_store(job), config)
    result: StageResult = launch(train, {"job": job}, config.workers, context)["result"]
    return result


def train(worker: Worker, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What one rank does; rank 0 returns the stage's result."""
    job: PretrainJob = settings["job"]
    config = job.config

    # Data: every rank maps all shards and reads only its samples.
    train_sampler, heldout_sampler = open_samplers(job)

    # Model and engine. All ranks draw the same weights from the seed.
    torch.manual_seed(job.seed)
    with storage.local_copy(job.initial_model_uri or job.tokenizer_uri, worker.scratch) as local:
        model = build_model(job, local)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable()
    num_parameters = sum(p.numel() for p in model.parameters())
    engine = build_engine(model.to(worker.device), config=engine_settings(config))
    record = engine_record(engine)

    # Resume by default: the newest checkpoint that is intact on all ranks.
    store = checkpoint_store(job)
    restored = store.restore(
        worker.scratch / "restored", ranks=(0, worker.rank), agree=worker.agree, note=worker.progress.note
    )
    step, train_seconds, train_loss = 0, 0.0, math.nan
    if restored is not None:
        check_checkpoint_data(restored.state, job)
        load_engine(engine, worker.scratch / "restored")
        step, train_seconds = restored.step, restored.state["train_seconds"]
        train_loss = restored.state["train_loss"]
        worker.progress.note(f"resuming from the checkpoint of step {step}")
    log = MetricsLog(job.output, worker.scratch, first_step=step) if worker.is_main else None

    def measure() -> heldout.HeldoutLoss:
        """Held-out loss, on all ranks."""
        assert heldout_sampler is not None
        engine.eval()
        measured = heldout.heldout_loss(
            engine,
            heldout_sampler,
            batch_size=config.rank_micro_batch_size,
            device=worker.device,
            rank=worker.rank,
            world_size=worker.world_size,
            all_sum=dist.all_reduce,
        )
        engine.train()
        return measured

    def save() -> None:
        """Commit a checkpoint of the state before `step`, on all ranks."""
        local = worker.scratch / "checkpoint"
        save_engine(engine, local)
        state = {
            "train_seconds": train_seconds,
            "train_loss": train_loss,
            "tokens_fingerprint": job.tokens_fingerprint,
        }
        if log is not None:
            log.publish()
        store.save(step, local, rank=worker.rank, world_size=worker.world_size, barrier=worker.barrier, state=state)
        shutil.rmtree(local)

    schedule = SCHEDULES[config.schedule]
    tokens_per_step = config.global_batch_size * config.sequence_length
    tokens_per_pass = config.rank_micro_batch_size * config.sequence_length
    engine.train()
    while step < config.num_steps:
        started = time.perf_counter()
        lr = schedule(
            step,
            lr=config.lr,
            min_lr=config.min_lr,
            warmup_steps=config.warmup_steps,
            total_steps=config.num_steps,
        )
        set_lr(engine, lr)

        totals = torch.zeros(2, device=worker.device)  # loss, labels
        for numbers_B in rank_samples(
            step,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.rank_micro_batch_size,
            rank=worker.rank,
            world_size=worker.world_size,
        ):
            batch = train_sampler.batch(numbers_B)
            labels_BT = torch.from_numpy(batch.labels_BT).to(worker.device)
            logits_BTV = engine(**heldout.model_inputs(batch, worker.device)).logits
            # Divided by all positions, labelled or not, so the gradient does not depend on how samples are dealt out.
            loss_sum = heldout.token_losses_sum(logits_BTV, labels_BT)
            engine.backward(loss_sum / tokens_per_pass)
            engine.step()  # acts on the last pass of an optimizer step
            totals += torch.stack([loss_sum.detach(), (labels_BT != IGNORE_INDEX).sum()])

        dist.all_reduce(totals)
        train_loss = (totals[0] / totals[1]).item()
        seconds = time.perf_counter() - started
        train_seconds += seconds
        if not math.isfinite(train_loss):
            raise StageFailed(
                f"the training loss is {train_loss} at step {step}; a lower lr ({config.lr}), more warmup_steps "
                f"({config.warmup_steps}) or gradient_clipping ({config.gradient_clipping}) usually helps"
            )

        row = {"step": step, "loss": train_loss, "lr": lr, "tokens_per_s": tokens_per_step / seconds}
        step += 1
        last = step == config.num_steps
        if config.eval_every_steps and step % config.eval_every_steps == 0 and heldout_sampler and not last:
            row["heldout_loss"] = measure().mean
        if log is not None:
            log.append(row)
        worker.progress.update(step, config.num_steps, "steps", loss=train_loss, tokens_per_s=tokens_per_step / seconds)
        if last or step % config.checkpoint_every_steps == 0:
            save()

    # What came of it.
    metrics: dict[str, Any] = {
        "train_loss": train_loss,
        "steps": config.num_steps,
        "tokens": config.num_steps * tokens_per_step,
        "tokens_of": tokens_of_what(job.tokens_uri, config.num_steps * tokens_per_step),
        "tokens_per_s": config.num_steps * tokens_per_step / train_seconds,
        "num_parameters": num_parameters,
    }
    if heldout_sampler is not None:
        measured = measure()
        metrics.update(heldout_loss=measured.mean, heldout_tokens=measured.num_tokens)
        if worker.is_main:
            metrics.update(heldout_references(job, measured, worker.scratch))

    state_dict = full_state_dict(engine)
    if log is None:
        return None
    files = export_model(
        engine.module, state_dict, tokenizer_uri=job.tokenizer_uri, output=job.output, scratch=worker.scratch
    )
    files = sorted([*files, log.close()], key=lambda file: file.name)
    result = commit_result(job.output, StageResult(metrics, files, record))
    store.clear()
    return {"result": result}


# ------------------------------------------------------------------------------------------- what `train` uses


def open_samplers(job: PretrainJob, progress: Progress | None = None) -> tuple[Sampler, Sampler | None]:
    """The training samples in their order, and the held-out ones (None where no shard is held out).

    Local shards are mapped when they are read. Remote ones are copied to this machine: all of them at once, or where
    the order goes by windows, those of the window at hand and of the next as they come up.
    """
    config = job.config
    cache = shard_cache(config)
    by_window = config.shuffle == "windows"
    entries = read_token_index(job.tokens_uri)
    train_entries = [entry for entry in entries if not entry.heldout]
    heldout_entries = [entry for entry in entries if entry.heldout]

    def stream_of(entries: list[ShardEntry], *, random_reads: bool, at_once: bool) -> StoredTokens:
        stream = StoredTokens(job.tokens_uri, entries, random_reads=random_reads, localise=cache.localise)
        if at_once:
            cache.fetch_all(stream.shards([(0, stream.num_tokens)]), progress or SilentProgress())
        return stream

    stream = stream_of(train_entries, random_reads=not by_window, at_once=not by_window)
    apart = config.attention == "within_documents"
    train_sampler: Sampler
    if config.packing == "best_fit":
        windows, sizes_W = packing_windows(job, stream, progress or SilentProgress())
        train_sampler = BestFitSampler(stream, config.sequence_length, windows, sizes_W, documents_apart=apart)
    else:
        train_sampler = TokenSampler(stream, config.sequence_length, None, documents_apart=apart)
    if by_window:
        train_sampler.shuffle_windows(job.seed, window_samples=config.shuffle_window)
    else:
        train_sampler.shuffle(job.seed)
    train_sampler.announce = lambda spans: cache.fetch_ahead(stream.shards(spans))
    if not heldout_entries:
        return train_sampler, None
    # Held-out documents are always cut end to end, so that their loss compares between packings.
    heldout_stream = stream_of(heldout_entries, random_reads=False, at_once=True)
    return train_sampler, TokenSampler(heldout_stream, config.sequence_length, None, documents_apart=apart)


def packing_windows(
    job: PretrainJob, stream: TokenStream, progress: Progress
) -> tuple[PackingWindows, npt.NDArray[np.int64]]:
    """The windows of best-fit packing and how many samples each makes: found once, and kept in the output."""
    config = job.config
    region = config.shuffle_window if config.shuffle == "windows" else None
    windows = PackingWindows(stream.num_tokens, config.sequence_length, region_samples=region)
    kept = storage.join(job.output, f"packing-{WINDOW_SAMPLES}x{STRIPES}.npy")
    try:
        sizes_W = np.load(io.BytesIO(storage.read_bytes(kept)), allow_pickle=False)
    except FileNotFoundError:
        count = windows.num_windows
        sizes_W = window_sizes(
            stream,
            config.sequence_length,
            windows,
            on_window=lambda window: progress.update(window + 1, count, "windows"),
        )
        content = io.BytesIO()
        np.save(content, sizes_W)
        storage.write_bytes(kept, content.getvalue())
    return windows, sizes_W


def shard_cache(config: PretrainConfig) -> ShardCache:
    """Where this machine keeps copies of remote shards."""
    directory = Path(config.data_cache) if config.data_cache is not None else default_directory()
    return ShardCache(directory, budget_bytes=cache_bytes(config))


def cache_bytes(config: PretrainConfig) -> int | None:
    """What those copies may take."""
    return None if config.data_cache_gib is None else int(config.data_cache_gib * 2**30)


def build_model(job: PretrainJob, local: Path) -> Any:
    """The model to train, in fp32: new weights, or those of the initial model; `local` has it or the tokenizer."""
    if job.initial_model_uri is not None:
        return load_model(local)
    assert job.config.model is not None
    return new_model(model_config(job.config.model, tokenizer=load_tokenizer(local)))


def load_tokenizer(local: Path) -> Any:
    """The Hugging Face tokenizer in a local directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(local, local_files_only=True)


def engine_settings(config: PretrainConfig) -> dict[str, Any]:
    """DeepSpeed's settings for this stage. Raises `InputError` where its `deepspeed:` block contradicts them."""
    return deepspeed_config(
        zero_stage=config.zero_stage,
        precision=config.precision,
        micro_batch_size=config.rank_micro_batch_size,
        grad_accumulation_steps=config.grad_accumulation_steps,
        world_size=config.workers.num_workers,
        gradient_clipping=config.gradient_clipping,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        extra=config.deepspeed,
    )


def checkpoint_store(job: PretrainJob) -> CheckpointStore:
    """Where this run's checkpoints are while it runs."""
    return CheckpointStore(storage.join(job.output, "checkpoints"), keep=job.config.keep_checkpoints)


def tokens_of_what(tokens_uri: str, num_tokens: int) -> dict[str, dict[str, int]]:
    """About how many of `num_tokens` trained on are of each source, language and class of lengths, by the index.

    Samples are drawn from the whole stream alike, so the index's shares are those of any number of tokens.
    """
    entries = [entry for entry in read_token_index(tokens_uri) if not entry.heldout]
    total = sum(entry.num_tokens for entry in entries)
    found: dict[str, Counter[str]] = {figure: Counter() for figure in ("source", "language", "min_length")}
    for entry in entries:
        for figure, counts in found.items():
            counts[str(getattr(entry, figure))] += entry.num_tokens
    return {
        figure: {name: round(num_tokens * count / total) for name, count in counts.most_common(_SHOWN_SOURCES)}
        for figure, counts in found.items()
    }


def heldout_references(job: PretrainJob, measured: heldout.HeldoutLoss, scratch: Path) -> dict[str, float]:
    """What the held-out loss is compared with: the tokens' unigram entropy, and the bytes they stand for."""
    shards = [shard.tokens_T for shard in open_shards(job.tokens_uri, heldout=True)]
    figures = {"unigram_entropy": heldout.unigram_entropy(shards)}
    copy_tokenizer(job.tokenizer_uri, scratch / "tokenizer")
    num_bytes = heldout.text_bytes(shards, scratch / "tokenizer" / "tokenizer.json")
    # Inside documents, first tokens are no labels, and bits per byte would no longer compare with other models'.
    if num_bytes and job.config.attention == "across_documents":
        figures["heldout_bits_per_byte"] = heldout.bits_per_byte(measured.loss_sum, num_bytes)
    return figures


# ------------------------------------------------------------------------------- refused before a worker starts


def check_data(job: PretrainJob, tokens: Artifact, tokenizer: Artifact, tokenizer_size: int) -> None:
    """Raise `InputError` unless there is something to train on, in the ids of this tokenizer.

    The shards' manifest tells which tokenizer made them, and no shard is opened; shards from elsewhere are scanned
    for ids out of range. Raises `CorruptArtifact` for shards that are not of the size in their index.
    """
    entries = read_token_index(job.tokens_uri)
    uris = shard_uris(job.tokens_uri, entries)
    num_tokens = sum(entry.num_tokens for entry in entries if not entry.heldout)
    if num_tokens < 2:
        raise InputError(f"{job.tokens_uri} has {num_tokens} tokens to train on (held-out shards apart)")
    window = job.config.shuffle_window * job.config.sequence_length if job.config.shuffle == "windows" else None
    check_budget(entries, uris, budget_bytes=cache_bytes(job.config), window_tokens=window)
    made_with = tokens.manifest.inputs.get("tokenizer")
    if made_with is not None:
        if made_with != tokenizer.manifest.fingerprint:
            raise InputError(
                f"the shards of {tokens.uri} were made with tokenizer {made_with}, and {tokenizer.uri} is "
                f"{tokenizer.manifest.fingerprint}; give that tokenizer, or tokenise again with this one"
            )
    else:
        check_ids(uris, tokenizer, tokenizer_size)
    if job.config.packing == "best_fit" and all(storage.is_local(uri) for uri in uris):
        # Once, here, instead of by every rank; a remote store's shards come to the machines of the ranks first.
        train_entries = [entry for entry in entries if not entry.heldout]
        packing_windows(job, StoredTokens(job.tokens_uri, train_entries, random_reads=False), SilentProgress())


def check_ids(uris: Iterable[str], tokenizer: Artifact, tokenizer_size: int) -> None:
    """Raise `InputError` where a shard holds an id that the tokenizer does not have. Reads all of them."""
    for uri in dict.fromkeys(uris):
        largest = int(TokenShard(uri).tokens_T.max(initial=0))
        if largest >= tokenizer_size:
            raise InputError(
                f"{uri} holds token id {largest}, and the tokenizer {tokenizer.uri} has {tokenizer_size} "
                "tokens; give the tokenizer that made the shards"
            )


def check_model(job: PretrainJob, scratch: Path) -> int:
    """The tokenizer's size; `InputError` if the model can't be built, or is too small for it or the sequences."""
    from transformers import AutoConfig

    with storage.local_copy(job.tokenizer_uri, scratch) as local:
        tokenizer = load_tokenizer(local)
    if job.initial_model_uri is None:
        assert job.config.model is not None
        config = model_config(job.config.model, tokenizer=tokenizer)
    else:
        with storage.local_copy(job.initial_model_uri, scratch) as local:
            config = AutoConfig.from_pretrained(local, local_files_only=True)
        if config.vocab_size < len(tokenizer):
            raise InputError(
                f"the initial model {job.initial_model_uri} has {config.vocab_size} tokens and the tokenizer "
                f"{len(tokenizer)}; use the tokenizer it was trained with"
            )
    check_sequence_length(job.config.sequence_length, config)
    return len(tokenizer)


def check_checkpoint(store: CheckpointStore, config: PretrainConfig) -> None:
    """Raise `StageFailed` if an earlier attempt's checkpoint needs another number of workers."""
    checkpoint = store.latest()
    num_workers = config.workers.num_workers
    if checkpoint is not None and checkpoint.world_size != num_workers and config.zero_stage > 0:
        raise StageFailed(
            f"the checkpoint of step {checkpoint.step} was written by {checkpoint.world_size} workers under "
            f"ZeRO-{config.zero_stage}, whose parts don't fit {num_workers}; set workers.num_workers to "
            f"{checkpoint.world_size}, or remove {store.uri} to start over"
        )


def check_checkpoint_data(state: Mapping[str, Any], job: PretrainJob) -> None:
    """Raise `StageFailed` if the shards are not those the checkpoint was trained on."""
    if state["tokens_fingerprint"] != job.tokens_fingerprint:
        raise StageFailed(
            f"the checkpoint in {job.output} was trained on the token shards {state['tokens_fingerprint']}, and "
            f"these are {job.tokens_fingerprint}; give those, or remove its checkpoints directory to start over"
        )
