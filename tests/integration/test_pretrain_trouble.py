"""Pre-training when steps go wrong: bad batches, exploding gradients, a rank that hangs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from cluster.contracts.artifacts import Artifact
from cluster.contracts.config import WorkerGroup
from cluster.contracts.errors import StageFailed
from cluster.contracts.progress import SilentProgress
from tests.integration.poison import poisoned_loss
from tests.integration.single_rank import one_rank
from tests.integration.test_pretrain import STEPS, context, losses, tiny_config
from tests.integration.token_fixtures import make_tokenizer, make_tokens
from training import token_losses
from training.launch.workers import Worker, run_in_process, run_workers
from training.metrics.metrics_log import METRICS, read_metrics
from training.pretrain.job import PretrainJob, build_model
from training.pretrain.open_data import open_training
from training.pretrain.stage import run
from training.schedules import SCHEDULES

assert one_rank  # the fixture of that name, for this module too


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("trouble")
    return {"tokens": make_tokens(root / "tokens"), "tokenizer": make_tokenizer(root / "tokenizer")}


@pytest.fixture(scope="module")
def root(inputs: dict[str, Artifact]) -> Path:
    return Path(inputs["tokens"].uri).parent


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def poisoned() -> Iterator[Any]:
    """`poisoned(factors)` multiplies the training loss of those passes from then on, until it is called again."""
    with ExitStack() as stack:

        def poison(factors: Mapping[int, float]) -> None:
            stack.close()
            stack.enter_context(poisoned_loss(factors))

        yield poison


PASSES_PER_STEP = 4  # of `tiny_config` with one worker


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_skipped_batch_leaves_the_weights_alone(
    zero_stage: int, inputs: dict[str, Artifact], root: Path, poisoned: Any
) -> None:
    """A batch of nan in the middle of an accumulation: the next step's loss is that of the same weights."""
    rate = {"schedule": "wsd", "warmup_steps": 0, "lr": 1e-3}  # a constant rate up to step 9
    poisoned({5 * PASSES_PER_STEP + 1: math.nan})
    heard = Heard()
    config = tiny_config(
        num_workers=1, zero_stage=zero_stage, divergence={"not_finite": "skip", "spike": "ignore"}, **rate
    )
    output = root / f"skipped{zero_stage}"
    result = run(config, inputs, str(output), context(root, heard), launch=run_in_process)
    assert heard.notes == ["step 5: the training loss is nan; the batch is skipped"]
    rows = read_metrics(output / METRICS)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[5]["events"] == ["step 5: the training loss is nan; skip"]
    assert rows[5]["loss"] is None
    assert all(math.isfinite(row["loss"]) for row in rows[6:])
    assert result.metrics["divergence"] == rows[5]["events"]
    assert math.isfinite(result.metrics["heldout_loss"])
    if zero_stage:
        reference = read_metrics(root / "skipped0" / METRICS)
        assert [row["loss"] for row in rows[6:]] == pytest.approx([row["loss"] for row in reference[6:]], rel=1e-4)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_gradient_that_is_not_finite_stops_the_run_even_where_the_loss_is(
    zero_stage: int, inputs: dict[str, Artifact], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed leaves such a step out without a word; we say so."""

    class Exploding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    honest, calls = token_losses.loss_sums, iter(range(10**6))

    def loss_sums(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> token_losses.LossSums:
        sums = honest(logits_BTV, labels_BT)
        explodes = next(calls) == 3 * PASSES_PER_STEP
        return sums._replace(loss=Exploding.apply(sums.loss)) if explodes else sums

    monkeypatch.setattr(token_losses, "loss_sums", loss_sums)
    config = tiny_config(num_workers=1, zero_stage=zero_stage)
    with pytest.raises(StageFailed, match=r"the gradient's norm is (inf|nan) at step 3; divergence.not_finite: skip"):
        run(config, inputs, str(root / f"exploded{zero_stage}"), context(root), launch=run_in_process)


def test_rewound_run_goes_on_from_the_checkpoint_with_the_data_behind_the_spike(
    inputs: dict[str, Artifact], root: Path, poisoned: Any
) -> None:
    """Step 8 spikes: back to step 5, whose batch is now the ninth; killed later, the resumed run does the same."""
    settings = {
        "divergence": {"spike": "rewind", "rewind_steps": 2, "window": 8, "spike_deviations": 30.0},
        "checkpoint_every_steps": 5,
        "steps": 14,
        "keep_checkpoints": 3,
    }
    poisoned({8 * PASSES_PER_STEP: 40.0})
    heard = Heard()
    output = root / "rewound"
    result = run(
        tiny_config(num_workers=1, **settings), inputs, str(output), context(root, heard), launch=run_in_process
    )
    assert "jumped to" in heard.notes[0]
    assert heard.notes[1:] == ["resuming from the checkpoint of step 5"]
    rows = read_metrics(output / METRICS)
    assert [row["step"] for row in rows] == list(range(14))
    assert rows[5]["events"] == result.metrics["divergence"]
    assert len(rows[5]["events"]) == 1

    class Interrupted(Heard):
        def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
            if done == 7 and self.notes[-1:] == ["resuming from the checkpoint of step 5"]:
                raise KeyboardInterrupt

    again = root / "rewound_and_killed"
    poisoned({8 * PASSES_PER_STEP: 40.0})
    with pytest.raises(KeyboardInterrupt):
        run(
            tiny_config(num_workers=1, **settings),
            inputs,
            str(again),
            context(root, Interrupted()),
            launch=run_in_process,
        )
    poisoned({})
    run(tiny_config(num_workers=1, **settings), inputs, str(again), context(root), launch=run_in_process)
    assert [row["loss"] for row in read_metrics(again / METRICS)] == [row["loss"] for row in rows]


def test_growing_batches_have_the_samples_and_losses_of_any_micro_batch(
    inputs: dict[str, Artifact], root: Path
) -> None:
    warmup = {"batch_size_warmup": {"start": 4, "increment": 2, "tokens": 8 * 32}}
    whole, halves = root / "grown_whole", root / "grown_halves"
    for output, micro_batch_size in ((whole, 2), (halves, 1)):
        config = tiny_config(num_workers=1, micro_batch_size=micro_batch_size, **warmup)
        result = run(config, inputs, str(output), context(root), launch=run_in_process)
        assert result.metrics["tokens"] == (4 + 6 + 8 * 10) * 32
    assert losses(whole) == pytest.approx(losses(halves), rel=1e-4)
    assert [row["batch_size"] for row in read_metrics(whole / METRICS)] == [4, 6] + [8] * 10


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_growing_batches_are_those_of_a_bare_loop_also_when_killed_on_the_way(
    zero_stage: int, inputs: dict[str, Artifact], root: Path
) -> None:
    """Every pass of a step, and no other, is in the gradient of its optimizer step: the losses of a loop by hand."""
    settings = {
        "batch_size_warmup": {"start": 4, "increment": 2, "tokens": 8 * 32},
        "checkpoint_every_steps": 1,
        "gradient_clipping": None,
        "weight_decay": 0.0,
        "zero_stage": zero_stage,
        "steps": 6,
    }
    config = tiny_config(num_workers=1, **settings)
    job = PretrainJob(config, inputs["tokens"].uri, "-", inputs["tokenizer"].uri, None, "-", seed=0)
    torch.manual_seed(0)
    model = build_model(job, Path(), Path(inputs["tokenizer"].uri))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=config.betas, weight_decay=0.0)
    sampler, plan, expected = open_training(job), config.batch_plan, []
    for step in range(6):
        batch = sampler.batch(np.arange(plan.first_sample(step), plan.first_sample(step + 1)))
        logits = model(input_ids=torch.from_numpy(batch.input_ids_BT)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.labels_BT).flatten())
        loss.backward()
        optimizer.param_groups[0]["lr"] = SCHEDULES["cosine"](
            step, lr=config.lr, min_lr=0.0, warmup_steps=config.warmup_steps, total_steps=6
        )
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())

    class Interrupted(SilentProgress):
        def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
            if done == 3:
                raise KeyboardInterrupt

    output = str(root / f"grown{zero_stage}")
    with pytest.raises(KeyboardInterrupt):
        run(config, inputs, output, context(root, Interrupted()), launch=run_in_process)
    run(config, inputs, output, context(root), launch=run_in_process)
    assert [row["loss"] for row in read_metrics(Path(output) / METRICS)] == pytest.approx(expected, rel=1e-4)


def test_offloaded_optimizer_has_the_losses_of_one_on_the_device(inputs: dict[str, Artifact], root: Path) -> None:
    config = tiny_config(num_workers=1, z_loss_coef=1e-4, steps=3, zero_stage=2, offload="optimizer")
    run(config, inputs, str(root / "with_z"), context(root), launch=run_in_process)
    plain = tiny_config(num_workers=1, z_loss_coef=1e-4, steps=3, zero_stage=2)
    run(plain, inputs, str(root / "without_offload"), context(root), launch=run_in_process)
    kept, moved = (
        [row["loss"] for row in read_metrics(root / name / METRICS)] for name in ("without_offload", "with_z")
    )
    assert moved == pytest.approx(kept, rel=1e-4)


def stand_still(worker: Worker, job: None) -> None:
    """Three collectives; rank 1 never comes to the second."""
    for number in range(3):
        worker.heart.beat(f"forward pass of step {number}")
        if number == 1 and worker.rank == 1:
            time.sleep(3600)
        worker.heart.beat(f"backward pass of step {number}")
        dist.all_reduce(torch.ones(1))


@pytest.mark.soak
@pytest.mark.usefixtures("local_ray")
def test_rank_that_hangs_is_named_with_its_place_in_the_code(root: Path) -> None:
    group = WorkerGroup(num_workers=2, cpus=0.5, max_failures=0, hang_timeout_s=3.0)
    with pytest.raises(StageFailed) as failure:
        run_workers(stand_still, None, group, context(root))
    assert "no progress for" in str(failure.value)
    assert "rank 1 hangs in 'forward pass of step 1', at " in str(failure.value)
    assert "in stand_still" in str(failure.value)
