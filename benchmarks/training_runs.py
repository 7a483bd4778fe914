"""One training run of a benchmark, in processes of its own: our stage, or a bare PyTorch loop.

`launch` starts the run and gives back its median step and its metrics; `python -m benchmarks.training_runs JOB` is what
it starts, with the job as JSON. `make_inputs` makes what the runs read.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

MODEL = {  # 6.8 million parameters
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
VOCAB_SIZE = 8192
VOCAB_SIZE_30M = 28_000  # with which the preset has its 30 million parameters
SEQUENCE_LENGTH, GLOBAL_BATCH_SIZE = 256, 8
LR, BETAS, WEIGHT_DECAY, CLIPPING = 3e-4, (0.9, 0.95), 0.1, 1.0
WARM_UP_STEPS = 3  # not timed
NUM_THREADS = 2


@dataclass
class Timed:
    """Rank 0's progress: when each step was reported. Shows nothing; ends the run after `stop_after` of them."""

    stop_after: int | None = None
    moments: list[tuple[float, float]] = field(default_factory=list)  # wall and CPU seconds

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        self.moments.append((time.perf_counter(), time.process_time()))
        if len(self.moments) == self.stop_after:
            raise EnoughError

    def note(self, message: str) -> None:
        pass

    def step_seconds(self) -> list[tuple[float, float]]:
        """(wall, CPU) of each step after the warm-up."""
        return _differences(self.moments)


class EnoughError(Exception):
    """All steps that are measured were taken; checkpoints and export are left out."""


def _differences(moments: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(moments)][WARM_UP_STEPS:]


def launch(job: dict[str, Any], scratch: Path, *, processes: int = 1) -> dict[str, Any]:
    """Run one training in `processes` new processes; its median step's wall and CPU seconds, and its metrics."""
    threads = str(job.get("threads", NUM_THREADS))
    gpus = job.get("settings", {}).get("workers", {}).get("gpus", 0)
    environment = {
        **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE",
        "DS_ACCELERATOR": "cuda" if gpus else "cpu",
    }  # fmt: skip
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    start += ["-m", "benchmarks.training_runs", json.dumps({**job, "scratch": str(scratch)})]
    done = subprocess.run(start, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"wall_s"')]
    if done.returncode or not lines:
        sys.exit(f"the run {job} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(lines[0])
    return result


def run_job(job: dict[str, Any]) -> None:
    """What such a process does."""
    seconds, metrics = run_bare(job) if job["kind"] == "bare" else run_ours(job)
    if int(os.environ.get("RANK", "0")) == 0:
        wall, cpu = (statistics.median(column) for column in zip(*seconds, strict=True))
        print(json.dumps({"wall_s": wall, "cpu_s": cpu, "metrics": metrics}))


def run_ours(job: dict[str, Any]) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """The stage, as a plain process or as one rank of several."""
    import torch

    from cluster.contracts.artifacts import StageContext, open_artifact
    from training.launch.workers import run_in_process
    from training.metrics.metrics_log import METRICS
    from training.pretrain.config import PretrainConfig
    from training.pretrain.stage import run

    scratch = Path(job["scratch"])
    steps = job["steps"] + WARM_UP_STEPS + 1
    settings: dict[str, Any] = {
        "tokens": "tokens", "tokenizer": "tokenizer", "model": job.get("model", MODEL),
        "sequence_length": SEQUENCE_LENGTH, "global_batch_size": GLOBAL_BATCH_SIZE, "steps": steps, "lr": LR,
        "betas": BETAS, "weight_decay": WEIGHT_DECAY, "gradient_clipping": CLIPPING, "schedule": "wsd",
        "zero_stage": job["zero_stage"], "precision": job["precision"], "checkpoint_every_steps": 10 * steps,
        "workers": {"num_workers": job.get("workers", 1), "threads": job.get("threads", NUM_THREADS)},
    }  # fmt: skip
    config = PretrainConfig(**{**settings, **job.get("settings", {})})
    inputs = {name: open_artifact(str(scratch / name)) for name in ("tokens", "tokenizer")}
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        timed = Timed(stop_after=steps if job.get("stop_early") else None)
        # Ranks of one run share the directory that rank 0 makes.
        output = str(scratch / f"output-{os.environ.get('TORCHELASTIC_RUN_ID', Path(directory).name)}")
        context = StageContext("base", timed, Path(directory), Path(directory))
        metrics: dict[str, Any] = {}
        try:
            metrics = run(config, inputs, output, context, launch=run_in_process).metrics
            if int(os.environ.get("RANK", "0")) == 0:
                rows = map(json.loads, Path(output, METRICS).read_text().splitlines())
                metrics["stalls_s"] = [row["checkpoint_stall_s"] for row in rows if row["checkpoint_stall_s"]]
        except EnoughError:
            metrics["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30  # 0 without a GPU
    return timed.step_seconds() or [(0.0, 0.0)], metrics


def run_bare(job: dict[str, Any]) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """The loop that anyone would write: AdamW (fused), clipping, and for bf16 fp32 masters, as mixed precision has."""
    import torch
    from torch.nn import functional as F  # noqa: N812
    from transformers import AutoTokenizer

    from training.models import model_config, new_model

    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(Path(job["scratch"]) / "tokenizer")
    model = new_model(model_config(MODEL, tokenizer=tokenizer))
    masters = list(model.parameters())
    if job["precision"] == "bf16":
        masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
        model.to(torch.bfloat16)
    groups = [
        {"params": [p for p in masters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in masters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
    tokens = torch.randint(VOCAB_SIZE, (GLOBAL_BATCH_SIZE, SEQUENCE_LENGTH + 1))
    moments = []
    for _ in range(job["steps"] + WARM_UP_STEPS + 1):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        if job["precision"] == "bf16":
            for master, parameter in zip(masters, model.parameters(), strict=True):
                master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, CLIPPING)
        optimizer.step()
        optimizer.zero_grad()
        if job["precision"] == "bf16":
            with torch.no_grad():
                for master, parameter in zip(masters, model.parameters(), strict=True):
                    parameter.copy_(master)
        assert math.isfinite(loss.item())
        moments.append((time.perf_counter(), time.process_time()))
    return _differences(moments), {}


def make_inputs(directory: Path, *, vocab_size: int = VOCAB_SIZE) -> None:
    """A byte-level tokenizer with filler tokens, and two million random tokens, as artifacts."""
    import hashlib

    import numpy as np
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from cluster.contracts.artifacts import Manifest, write_manifest
    from cluster.contracts.tokens import ShardEntry, write_token_index, write_token_shard

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", *alphabet])}
    vocabulary.update({f"<{index}>": index for index in range(len(vocabulary), vocab_size)})
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(directory / "tokenizer")
    write_manifest(str(directory / "tokenizer"), Manifest("tokenizer", "tokenizer-bench", {}, {}), [])
    tokens = directory / "tokens"
    tokens.mkdir(parents=True)
    tokens_T = np.random.default_rng(0).integers(0, vocab_size, 2_000_000).astype(np.uint16)
    offsets = np.arange(0, len(tokens_T) + 1, 1000, dtype=np.int64)
    path = tokens / "shard-00000.arrow"
    with open(path, "wb") as sink:
        write_token_shard(sink, tokens_T, offsets, np.arange(len(offsets) - 1), ["bench"] * (len(offsets) - 1))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = ShardEntry(path.name, path.stat().st_size, digest, len(offsets) - 1, len(tokens_T))
    write_token_index(str(tokens), [entry])
    inputs = {"tokenizer": "tokenizer-bench"}
    write_manifest(str(tokens), Manifest("tokenize", "tokens-bench", {}, inputs), [])


if __name__ == "__main__":
    for job in sys.argv[1:]:  # none where `python -m benchmarks` runs every module
        run_job(json.loads(job))
