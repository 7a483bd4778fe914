"""Pre-training beside a bare PyTorch loop, and what checkpoints, data and a second worker cost.

`python -m benchmarks.pretrain [--only 1,2,3,7,8] [--quick]`. Both sides train the same model on batches of the same
shape, in processes of one kind, in turn; what counts is the median step over rounds. Ours is the whole loop: data,
logging, held-out and divergence checks and all, timed between reports. Needs no Ray.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, print_figures
from benchmarks.training_runs import (
    GLOBAL_BATCH_SIZE,
    SEQUENCE_LENGTH,
    VOCAB_SIZE_30M,
    launch,
    make_inputs,
)
from training.launch.native_bf16 import has_native_bf16

BARS = (1, 2, 3, 7, 8)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="bars to measure, such as 1,3; default: all of " + ",".join(map(str, BARS)))
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it runs, not how fast")
    options = parser.parse_args()
    only = {int(bar) for bar in options.only.split(",")} if options.only else set(BARS)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="raymill-bench-") as directory:
        scratch = Path(directory)
        make_inputs(scratch)
        bars: dict[int, Callable[[], list[Figure]]] = {
            1: lambda: beside_a_bare_loop(scratch, quick=options.quick),
            2: lambda: two_workers(scratch, quick=options.quick),
            3: lambda: waiting(scratch, quick=options.quick),
            7: lambda: token_store(quick=options.quick),
            8: lambda: on_a_gpu(quick=options.quick),
        }
        for bar in sorted(only):
            print(f"bar {bar} ...", flush=True)
            figures.extend(bars[bar]())
    print_figures(figures)
    sys.exit(1 if any(figure.holds is False for figure in figures) and not options.quick else 0)


# ------------------------------------------------------------------------------------------------------- the bars


def beside_a_bare_loop(scratch: Path, *, quick: bool) -> list[Figure]:
    """Bar 1: tokens per second against a bare loop, one process of two threads, by precision and ZeRO stage.

    In bf16 only where the CPU has it: emulated, a step takes many times as long and says nothing of either loop.

    The bare loop runs before and after each two stages, and a stage is compared with the mean of the two around it: on
    a shared machine the same run takes some percent more or less from minute to minute.
    """
    steps, rounds = (4, 1) if quick else (16, 3)
    precisions = ("fp32", "bf16") if has_native_bf16() else ("fp32",)
    wall: dict[tuple[str, int], list[float]] = {}
    cpu: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for precision in precisions:
            bare_job = {"kind": "bare", "precision": precision, "steps": steps}
            before = launch(bare_job, scratch)
            for stages in ((0, 1), (2, 3)):
                jobs = [{"kind": "ours", "precision": precision, "zero_stage": z, "steps": steps} for z in stages]
                ours = [launch(job, scratch) for job in jobs]
                after = launch(bare_job, scratch)
                for zero_stage, run in zip(stages, ours, strict=True):
                    for seconds, found in (("wall_s", wall), ("cpu_s", cpu)):
                        bare = (before[seconds] + after[seconds]) / 2
                        found.setdefault((precision, zero_stage), []).append(bare / run[seconds])
                before = after
    ratios = {key: statistics.median(values) for key, values in wall.items()}
    shown = "; ".join(
        f"{precision} ZeRO-{stage} {ratio:.3f} (CPU-seconds {statistics.median(cpu[precision, stage]):.3f})"
        for (precision, stage), ratio in ratios.items()
    )
    if "bf16" not in precisions:
        shown += "; bf16 not measured, this CPU emulates it"
    note = f"{rounds} rounds of {steps} steps of {GLOBAL_BATCH_SIZE} x {SEQUENCE_LENGTH} tokens: {shown}"
    low = min(ratio for (_, stage), ratio in ratios.items() if stage < 3)
    three = min(ratio for (_, stage), ratio in ratios.items() if stage == 3)
    return [
        Figure(
            "1a", "tokens/s against a bare loop, worst of ZeRO 0-2", "times", low, 0.97, note=note, module="pretrain"
        ),
        Figure("1b", "tokens/s against a bare loop, ZeRO-3", "times", three, 0.90, module="pretrain"),
    ]


def two_workers(scratch: Path, *, quick: bool) -> list[Figure]:
    """Bar 2: two workers of one thread against one, the same global batch."""
    steps, rounds = (4, 1) if quick else (12, 3)
    ratios = []
    for _ in range(rounds):
        job = {"kind": "ours", "precision": "fp32", "zero_stage": 1, "steps": steps, "threads": 1}
        one = launch(job, scratch)
        two = launch({**job, "workers": 2}, scratch, processes=2)
        ratios.append(one["wall_s"] / two["wall_s"])
    value = statistics.median(ratios)
    note = f"{rounds} rounds of {steps} steps: " + ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return [Figure("2", "two workers of one thread against one", "times", value, 1.7, note=note, module="pretrain")]


def waiting(scratch: Path, *, quick: bool) -> list[Figure]:
    """Bar 3: the share of time spent waiting for data, and stalled by checkpoints of a 30M model every 50 steps."""
    steps = 12 if quick else 146  # 150 with those that warm up
    scratch = scratch / "30m"
    make_inputs(scratch, vocab_size=VOCAB_SIZE_30M)
    job = {
        "kind": "ours", "precision": "fp32", "zero_stage": 1, "steps": steps, "model": "30m",
        "settings": {"checkpoint_every_steps": 5 if quick else 50, "global_batch_size": 2},
    }  # fmt: skip
    figures = launch(job, scratch)["metrics"]
    in_the_loop = {**job, "settings": {**job["settings"], "async_checkpoints": False}, "steps": 46}
    synchronous = launch(in_the_loop, scratch)["metrics"] if not quick else None
    beside = f"; written in the loop {synchronous['checkpoint_stall_fraction']:.2%}" if synchronous else ""
    note = (
        f"{figures['num_parameters'] / 1e6:.0f}M parameters, {steps} steps of 2 x {SEQUENCE_LENGTH} tokens, "
        f"{figures['tokens_per_s']:,.0f} tokens/s{beside}"
    )
    return [
        Figure(
            "3a", "waiting for data", "share of step time", figures["data_wait_fraction"], 0.01, at_most=True,
            module="pretrain", note=note,
        ),
        Figure(
            "3b", "stalled by checkpoints", "share of training time", figures["checkpoint_stall_fraction"], 0.02,
            at_most=True, module="pretrain",
            note="each " + ", ".join(f"{stall_s:.2f} s" for stall_s in figures["stalls_s"])
            + "; the rest is the last one, which is waited for before the run ends, and counts most in one so short",
        ),
    ]  # fmt: skip


def token_store(*, quick: bool) -> list[Figure]:
    """Bar 7: opening a 100 GB token store; the other half of the bar, a lost machine, is a test."""
    from benchmarks.token_store import StoreSize, measure

    return measure(StoreSize(50_000, 50_000_000, 4) if quick else None)


def on_a_gpu(*, quick: bool) -> list[Figure]:
    """Bar 8: MFU of a 1B model on one GPU."""
    from benchmarks.mfu import measure

    return measure(quick=quick)


if __name__ == "__main__":
    main()
