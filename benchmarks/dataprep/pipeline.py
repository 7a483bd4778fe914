"""Bars 2 and 7: JSON Lines to deduplicated token shards through Ray, with the CPU time of all processes.

What is counted begins after Ray's start: the user and system time of this process and of all below it, Ray's daemons
and the workers that have ended included (`process_tree`). The tokenizer is trained beforehand, for both sides.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dataprep.documents import Document, recombined, write_jsonl
from benchmarks.dataprep.encoding import train_tokenizer
from benchmarks.dataprep.peer_process import Peer
from benchmarks.dataprep.process_tree import ProcessTree
from benchmarks.figures import Figure, ratio
from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult, open_artifact, write_manifest
from cluster.contracts.config import StageConfig
from cluster.contracts.progress import SilentProgress
from dataprep.clean.config import CleanConfig
from dataprep.dedupe.config import DedupeConfig
from dataprep.tokenize.config import TokenizeConfig

_DOCUMENTS_PER_FILE = 10_000
_PEER_FRACTION = 0.1
DEFAULT_DOCUMENTS = 720_000  # a minute of ours on two fast cores; a tenth of them are 12 minutes of datatrove's
_NUM_CPUS = 2


@dataclass(frozen=True)
class Run:
    """What one pass over the pipeline took."""

    documents: int
    tokens: int
    kept: int
    cpu_s: float  # of all processes
    stages: str  # of which by stage
    wall_s: float
    worker_mb: float  # the largest worker's own memory, shared memory apart


def beside_datatrove(
    documents: Sequence[Document], peer: Peer | None, scratch: Path, *, count: int, peer_count: int | None = None
) -> list[Figure]:
    """Bar 2: documents per CPU-second of `count` documents on ours, of `peer_count` of them on the peer's.

    None: a tenth of them.
    """
    made = list(recombined(documents, count, seed=0))
    tokenizer = scratch / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True)
    train_tokenizer(made).save(str(tokenizer))
    print(f"bar 2: ours, {len(made):,} documents", flush=True)
    with _ray():
        _through_ray(made[:200], tokenizer, scratch / "warm")
        ours = _through_ray(made, tokenizer, scratch / "ours")
    theirs, part = None, made[:0]
    if peer is not None:
        part = made[: int(count * _PEER_FRACTION) if peer_count is None else peer_count]
        print(f"bar 2: ours took {ours.wall_s:.0f} s; datatrove, {len(part):,} of the documents", flush=True)
        files = write_jsonl(part, scratch / "peer-input", files=_num_files(len(part)))
        theirs = len(part) / peer.run("pipeline", files, tokenizer=str(tokenizer))["cpu_s"]
    mine = ours.documents / ours.cpu_s
    note = (
        f"{ours.documents:,} documents, {ours.kept:,} kept, {ours.tokens:,} tokens; ours {ours.wall_s:.0f} s on"
        f" {_NUM_CPUS} cores, {ours.cpu_s:.0f} CPU-s of all processes ({ours.stages}); datatrove on {len(part):,} of"
        " the documents, scaled"
    )
    return [Figure("2", "JSON Lines to token shards", "documents/CPU-s", ratio(mine, theirs), 50, ours=mine,
                   peer=theirs, note=note)]  # fmt: skip


def at_ten_times_the_data(documents: Sequence[Document], scratch: Path, *, count: int) -> list[Figure]:
    """Bar 7: CPU time and the largest worker's memory at `count` documents and at ten times as many."""
    made = list(recombined(documents, 10 * count, seed=1))
    tokenizer = scratch / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True)
    train_tokenizer(made).save(str(tokenizer))
    with _ray():
        _through_ray(made[:200], tokenizer, scratch / "warm")
        small = _through_ray(made[:count], tokenizer, scratch / "small")
    with _ray():
        _through_ray(made[:200], tokenizer, scratch / "warm-again")
        large = _through_ray(made, tokenizer, scratch / "large")
    note = (
        f"{small.documents:,} and {large.documents:,} documents; {small.cpu_s:.1f} CPU-s ({small.stages}) and"
        f" {large.cpu_s:.1f} ({large.stages})"
    )
    memory = f"largest worker {small.worker_mb:,.0f} and {large.worker_mb:,.0f} MB, shared memory apart"
    return [
        Figure("7a", "CPU-s at ten times the data", "times", large.cpu_s / small.cpu_s, 10.5, at_most=True, note=note),
        Figure("7b", "a worker's peak memory at ten times the data", "times", large.worker_mb / small.worker_mb, 1.1,
               at_most=True, note=memory),
    ]  # fmt: skip


def _through_ray(documents: Sequence[Document], tokenizer: Path, storage: Path) -> Run:
    """Clean, dedupe, tokenise with the default rules and all filter families, as the runner calls them."""
    from dataprep.clean import stage as clean
    from dataprep.dedupe import stage as dedupe
    from dataprep.tokenize import stage as tokenize

    files = write_jsonl(documents, storage / "input", files=_num_files(len(documents)))
    families = CleanConfig(inputs=[str(p) for p in files], languages=["en"], fineweb={})  # type: ignore[arg-type]
    vocabulary = Artifact(str(tokenizer.parent), Manifest("tokenizer", "0", {}, {}))
    started = time.perf_counter()
    with ProcessTree() as tree:
        cleaned = _stage(clean.run, families, storage)
        clean_s = tree.cpu_s
        deduplicated = _stage(dedupe.run, DedupeConfig(parts="clean"), storage, parts=cleaned)
        dedupe_s = tree.cpu_s - clean_s
        config = TokenizeConfig(documents="dedupe", tokenizer="tokenizer")
        tokens = _stage(tokenize.run, config, storage, documents=deduplicated, tokenizer=vocabulary)
    return Run(
        documents=cleaned.manifest.metrics["read"],
        tokens=tokens.manifest.metrics["tokens"] + tokens.manifest.metrics["heldout_tokens"],
        kept=deduplicated.manifest.metrics["kept"],
        cpu_s=tree.cpu_s,
        stages=f"clean {clean_s:.1f}, dedupe {dedupe_s:.1f}, tokenise {tree.cpu_s - clean_s - dedupe_s:.1f}",
        wall_s=time.perf_counter() - started,
        worker_mb=tree.worker_mb,
    )


def _stage(function: object, config: StageConfig, storage: Path, **inputs: Artifact) -> Artifact:
    """One stage and its manifest."""
    assert callable(function)
    output = str(storage / config.kind)
    context = StageContext(config.kind, SilentProgress(), storage, storage, parts_directory=str(storage / "parts"))
    result: StageResult = function(config, inputs, output, context)
    write_manifest(output, Manifest(config.kind, "0", config.model_dump(mode="json"), {}, result.metrics), result.files)
    return open_artifact(output)


@contextmanager
def _ray() -> Iterator[None]:
    import ray

    environment = {"env_vars": {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}}
    logging.disable(logging.WARNING)  # Ray Data announces each of its steps
    ray.init(address="local", num_cpus=_NUM_CPUS, object_store_memory=512 << 20, include_dashboard=False,
             log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()
        logging.disable(logging.NOTSET)


def _num_files(count: int) -> int:
    return max(1, -(-count // _DOCUMENTS_PER_FILE), min(os.cpu_count() or 1, count // 100))
