"""MFU of a 1B model in bf16 on one GPU, with and without `torch.compile`: bar 8 of pre-training.

`python -m benchmarks.pretrain --only 8`. What is timed is the whole stage's loop, from report to report, in a process
of its own for each setting; the formula of the MFU is that of `training/pretrain/flops.py`.
Without a GPU nothing is measured, and that is said.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.training_runs import launch, make_inputs

ASKED = 0.55
MODEL, VOCAB_SIZE = "1b", 32_000
SEQUENCE_LENGTH, GLOBAL_BATCH_SIZE = 4096, 32  # 131,072 tokens of an optimizer step
STEPS = 6
# What differs between the runs: settings of the stage. The bar is the best with `compile`.
RUNS: dict[str, dict[str, Any]] = {
    "eager": {"micro_batch_size": 4},
    "compiled": {"micro_batch_size": 8, "compile": True},
    "compiled, within documents": {
        "micro_batch_size": 8, "compile": True, "attention": "within_documents", "attention_kernel": "flex_attention",
    },
}  # fmt: skip


def measure(*, quick: bool = False, runs: Mapping[str, Mapping[str, Any]] = RUNS) -> list[Figure]:
    """Train with each setting, print a table; the best MFU of those that compile."""
    note = f"{MODEL} in bf16, {GLOBAL_BATCH_SIZE} x {SEQUENCE_LENGTH} tokens a step; no GPU here"
    found: dict[str, float] = {}
    if torch.cuda.is_available():
        with tempfile.TemporaryDirectory(prefix="raymill-mfu-") as directory:
            found = _measured(Path(directory), steps=2 if quick else STEPS, runs=runs)
        note = f"{torch.cuda.get_device_name()}: " + "; ".join(f"{name} {mfu:.3f}" for name, mfu in found.items())
    compiled = max((mfu for name, mfu in found.items() if runs[name].get("compile")), default=None)
    return [Figure("8", "MFU of a 1B model, compiled", "share of peak", compiled, ASKED, module="pretrain", note=note)]


def _measured(scratch: Path, *, steps: int, runs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """MFU by setting; a table of them on the screen."""
    from training.pretrain.flops import peak_flops

    make_inputs(scratch, vocab_size=VOCAB_SIZE)
    peak, source = peak_flops(torch.device("cuda"), torch.bfloat16)
    console = Console(width=120)
    console.print(f"{torch.cuda.get_device_name()}, peak {peak / 1e12:,.0f} TFLOP/s in bf16 ({source})")
    table = Table("settings", "a step, s", "tokens/s", "MFU", "peak GiB", box=None)
    flops = _flops_per_token(scratch / "tokenizer")
    found = {}
    for name, settings in runs.items():
        job = {
            "kind": "ours", "model": MODEL, "precision": "bf16", "zero_stage": 1, "steps": steps, "stop_early": True,
            "settings": {
                "sequence_length": SEQUENCE_LENGTH, "global_batch_size": GLOBAL_BATCH_SIZE,
                "workers": {"num_workers": 1, "gpus": 1, "cpus": 1}, **settings,
            },
        }  # fmt: skip
        seconds = launch(job, scratch)
        tokens_per_s = GLOBAL_BATCH_SIZE * SEQUENCE_LENGTH / seconds["wall_s"]
        found[name] = flops * tokens_per_s / peak
        console.print(f"{name}: {found[name]:.3f}")
        memory_gib = seconds["metrics"]["memory_gib"]
        table.add_row(
            name, f"{seconds['wall_s']:.3f}", f"{tokens_per_s:,.0f}", f"{found[name]:.3f}", f"{memory_gib:.0f}"
        )
    console.print(table)
    return found


def _flops_per_token(tokenizer: Path) -> float:
    """Of the model, which is built without weights for it."""
    from transformers import AutoTokenizer

    from training.models import model_config, new_model
    from training.pretrain.flops import training_flops_per_token

    with torch.device("meta"):
        model = new_model(model_config(MODEL, tokenizer=AutoTokenizer.from_pretrained(tokenizer)))
    return training_flops_per_token(model, SEQUENCE_LENGTH)
