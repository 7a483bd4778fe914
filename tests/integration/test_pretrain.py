"""Pre-training through its real shells: plain processes, `torchrun`, and Ray Train with a worker killed."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.contracts.artifacts import Artifact, StageContext, StageResult, open_artifact
from cluster.contracts.config import WorkerGroup
from cluster.contracts.errors import CorruptArtifact, InputError, StageFailed
from cluster.contracts.progress import Progress, SilentProgress
from tests.integration.poison import poisoned_loss
from tests.integration.single_rank import one_rank
from tests.integration.token_fixtures import make_tokenizer, make_tokens
from training.checkpoint.store import CheckpointStore
from training.data.packing import BestFitSampler
from training.data.sampler import IGNORE_INDEX, TokenSampler
from training.launch.workers import Worker, run_in_process, run_workers
from training.metrics.metrics_log import METRICS, read_metrics
from training.pretrain.config import PretrainConfig
from training.pretrain.export_checkpoint import export_checkpoint
from training.pretrain.job import PretrainJob
from training.pretrain.open_data import check_data, open_heldout, open_training
from training.pretrain.stage import run

assert one_rank  # the fixture of that name, for this module too

STEPS = 12
MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def tiny_config(*, num_workers: int, **changes: Any) -> PretrainConfig:
    settings: dict[str, Any] = {
        "tokens": "tokens",
        "tokenizer": "tokenizer",
        "model": MODEL,
        "sequence_length": 32,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "steps": STEPS,
        "lr": 3e-3,
        "warmup_steps": 2,
        "checkpoint_every_steps": 5,
        "workers": {"num_workers": num_workers, "cpus": 0.5, "max_failures": 1},
    }
    return PretrainConfig(**{**settings, **changes})


def resized_config(*, num_workers: int, zero_stage: int) -> PretrainConfig:
    """50 steps; the checkpoint of step 30 outlives the run."""
    return tiny_config(
        num_workers=num_workers,
        zero_stage=zero_stage,
        micro_batch_size=None,
        steps=50,
        checkpoint_every_steps=30,
        keep_every_steps=30,
    )


@dataclass(frozen=True)
class BadStep:
    """A step whose loss is multiplied, and what the run does about it."""

    step: int
    factor: float
    settings: Mapping[str, Any]

    def config(self, *, num_workers: int) -> PretrainConfig:
        return tiny_config(num_workers=num_workers, **self.settings)

    def factors(self, *, num_workers: int) -> dict[int, float]:
        """By pass of one rank: the last but one of the step."""
        config = self.config(num_workers=num_workers)
        return {(self.step + 1) * config.grad_accumulation_steps - 2: self.factor}


_SKIP = {"divergence": {"not_finite": "skip", "spike": "ignore"}}
BAD_STEPS = {
    **{f"skipped{stage}": BadStep(5, math.nan, {"zero_stage": stage, **_SKIP}) for stage in range(4)},
    "skipped_bf16": BadStep(5, math.nan, {"zero_stage": 2, "precision": "bf16", **_SKIP}),
    "rewound": BadStep(
        8,
        200.0,
        {
            "divergence": {"spike": "rewind", "rewind_steps": 2, "window": 8, "spike_deviations": 30.0},
            "keep_checkpoints": 3,
        },
    ),
}


def losses(output: Path, steps: int = STEPS) -> list[float]:
    rows = read_metrics(output / METRICS)
    assert [row["step"] for row in rows] == list(range(steps))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("pretrain")
    return {"tokens": make_tokens(root / "tokens"), "tokenizer": make_tokenizer(root / "tokenizer")}


@pytest.fixture(scope="module")
def root(inputs: dict[str, Artifact]) -> Path:
    return Path(inputs["tokens"].uri).parent


def context(root: Path, progress: Progress | None = None) -> StageContext:
    return StageContext("base", progress or SilentProgress(), root / "scratch", root / "logs")


class Heard(SilentProgress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def never_launched(*arguments: Any) -> dict[str, Any]:
    raise AssertionError("a worker was started")


@pytest.fixture(scope="module")
def plain(inputs: dict[str, Artifact], root: Path) -> StageResult:
    """The reference: one plain process."""
    return run(tiny_config(num_workers=1), inputs, str(root / "plain"), context(root), launch=run_in_process)


def test_plain_process_learns_and_exports_a_loadable_model(plain: StageResult, root: Path) -> None:
    assert plain.engine == {"class": "DeepSpeedEngine", "zero_stage": 1, "world_size": 1}
    assert plain.metrics["heldout_tokens"] == 899
    assert plain.metrics["heldout_loss"] < losses(root / "plain")[0]
    model = AutoModelForCausalLM.from_pretrained(root / "plain")
    assert len(AutoTokenizer.from_pretrained(root / "plain")) == model.config.vocab_size
    assert sum(p.numel() for p in model.parameters()) == plain.metrics["num_parameters"]
    assert {f.name: f.size for f in plain.files} == {
        f.name: f.stat().st_size for f in (root / "plain").iterdir() if f.is_file()
    }
    assert not (root / "plain" / "checkpoints").exists()


def test_the_command_without_ray_makes_the_model_that_the_stage_makes(
    plain: StageResult, inputs: dict[str, Artifact], root: Path
) -> None:
    settings = tiny_config(num_workers=1).model_dump(mode="json", exclude_defaults=True)
    base = {"kind": "pretrain", **settings, **{role: artifact.uri for role, artifact in inputs.items()}}
    spec = root / "spec.yaml"
    spec.write_text(json.dumps({"name": "command", "storage": str(root / "runs"), "stages": {"base": base}}))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        left_behind = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}  # by libraries in this process
        environment = {name: value for name, value in os.environ.items() if name not in left_behind}
        return subprocess.run(
            [sys.executable, "-m", "cluster", *arguments],
            env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    unknown = command("train", str(spec), "bass")
    assert unknown.returncode == 2
    assert "the spec has no stage 'bass'; it has base" in unknown.stdout
    trained = command("train", str(spec), "base")
    assert trained.returncode == 0, trained.stdout
    (made,) = (root / "runs" / "pretrain").iterdir()
    assert open_artifact(str(made), kind="pretrain").manifest.engine == plain.engine
    assert (made / "model.safetensors").read_bytes() == (root / "plain" / "model.safetensors").read_bytes()
    assert "already there" in command("train", str(spec), "base").stdout


def test_finished_run_is_not_trained_again(plain: StageResult, inputs: dict[str, Artifact], root: Path) -> None:
    def launch(*arguments: Any) -> Any:
        raise AssertionError("trained again")

    again = run(tiny_config(num_workers=1), inputs, str(root / "plain"), context(root), launch=launch)
    assert again == plain


def go_on_from(finished: Path, output: Path) -> None:
    """Make `output` a run that was killed after the checkpoint that the finished run kept."""
    shutil.copytree(finished / "checkpoints", output / "checkpoints")
    shutil.copy(finished / METRICS, output)


@pytest.fixture(scope="module")
def one_worker(inputs: dict[str, Artifact], root: Path) -> None:
    """50 steps of one process under ZeRO 0 to 3: `one0` to `one3` below `root`."""
    for stage in range(4):
        config = resized_config(num_workers=1, zero_stage=stage)
        run(config, inputs, str(root / f"one{stage}"), context(root), launch=run_in_process)


@pytest.fixture(scope="module")
def torchrun(one_worker: None, inputs: dict[str, Artifact], root: Path) -> None:
    """Two processes, without Ray: `zero0` to `zero3`, `two0` to `two3` and `one_then_two0` to `one_then_two3`."""
    for stage in range(4):
        go_on_from(root / f"one{stage}", root / f"one_then_two{stage}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    job = subprocess.run(
        [*command, "-m", "tests.integration.zero_stages_job", str(root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert job.returncode == 0, job.stderr[:6000]


@pytest.mark.usefixtures("torchrun")
def test_two_processes_of_every_zero_stage_equal_one_process(plain: StageResult, root: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(root / "plain").state_dict()
    for zero_stage in range(4):
        output = root / f"zero{zero_stage}"
        assert losses(output) == pytest.approx(losses(root / "plain"), rel=1e-4)
        for name, tensor in AutoModelForCausalLM.from_pretrained(output).state_dict().items():
            torch.testing.assert_close(tensor, reference[name], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize("zero_stage", range(4))
def test_one_worker_two_and_a_change_between_them_have_the_same_losses(
    inputs: dict[str, Artifact], root: Path, zero_stage: int
) -> None:
    """Within 1e-4 at each of 50 steps; the checkpoint of step 30 is written by the other number of workers."""
    reference = losses(root / "one0", 50)
    changed = root / f"two_then_one{zero_stage}"
    go_on_from(root / f"two{zero_stage}", changed)
    heard = Heard()
    config = resized_config(num_workers=1, zero_stage=zero_stage)
    run(config, inputs, str(changed), context(root, heard), launch=run_in_process)
    assert heard.notes == ["resuming from the checkpoint of step 30, written by 2 workers"]
    for name in ("one", "two", "one_then_two", "two_then_one"):
        assert losses(root / f"{name}{zero_stage}", 50) == pytest.approx(reference, rel=1e-4), name


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_loss_gone_wrong_on_one_of_two_ranks_is_met_as_on_one(
    inputs: dict[str, Artifact], root: Path, name: str
) -> None:
    """Both ranks skip the batch, or go back and on behind it: losses and events are those of one process."""
    bad = BAD_STEPS[name]
    with poisoned_loss(bad.factors(num_workers=1)):
        run(bad.config(num_workers=1), inputs, str(root / name), context(root), launch=run_in_process)
    one, two = (read_metrics(root / directory / METRICS) for directory in (name, f"two_{name}"))
    assert [row["step"] for row in two] == list(range(STEPS))
    kinds = [[event.rsplit("; ", 1)[-1] for row in rows for event in row.get("events", ())] for rows in (one, two)]
    assert kinds == [["rewind" if name == "rewound" else "skip"]] * 2
    tolerance = 0.05 if name == "skipped_bf16" else 1e-4
    for mine, theirs in zip(two, one, strict=True):
        if theirs["loss"] is None:
            assert mine["loss"] is None
        else:
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=tolerance)


@pytest.mark.usefixtures("torchrun")
def test_a_kept_checkpoint_makes_the_same_model_whatever_stage_and_ranks_wrote_it(root: Path) -> None:
    models = []
    for name in ("one0", "two0", "two1", "two2", "two3"):
        checkpoint = export_checkpoint(str(root / name), str(root / "exports" / name))
        assert checkpoint.step == 30
        models.append(AutoModelForCausalLM.from_pretrained(root / "exports" / name).state_dict())
    for model in models[1:]:
        assert model.keys() == models[0].keys()
        for name, tensor in model.items():
            torch.testing.assert_close(tensor, models[0][name], rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="no checkpoint of step 40; there are those of the steps 30"):
        export_checkpoint(str(root / "one0"), str(root / "exports" / "none"), step=40)


@dataclass(frozen=True)
class KillRankZero(SilentProgress):
    """Kills the process of rank 0 with SIGKILL at a step, once."""

    step: int
    mark: Path

    def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        if done == self.step and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("torchrun", "local_ray")
def test_ray_run_with_a_killed_worker_has_the_losses_of_the_undisturbed_run(
    inputs: dict[str, Artifact], root: Path
) -> None:
    """Bit for bit; the undisturbed run is the ZeRO-1 run in plain processes, so the two shells agree as well."""
    step = random.Random(os.getpid()).randint(1, STEPS - 1)
    print("rank 0 killed after step", step)
    progress = KillRankZero(step=step, mark=root / "killed")
    result = run(tiny_config(num_workers=2), inputs, str(root / "killed_run"), context(root, progress))
    assert progress.mark.exists()
    assert result.engine == {"class": "DeepSpeedEngine", "zero_stage": 1, "world_size": 2}
    assert losses(root / "killed_run") == losses(root / "zero1")
    for name in ("model.safetensors", "config.json"):
        assert (root / "killed_run" / name).read_bytes() == (root / "zero1" / name).read_bytes()


def test_resume_in_a_plain_process_goes_on_at_the_next_sample(
    plain: StageResult, inputs: dict[str, Artifact], root: Path
) -> None:
    class Interrupted(SilentProgress):
        def update(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
            if done == 8:
                raise KeyboardInterrupt

    output, heard = str(root / "interrupted"), Heard()
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(num_workers=1), inputs, output, context(root, Interrupted()), launch=run_in_process)
    run(tiny_config(num_workers=1), inputs, output, context(root, heard), launch=run_in_process)
    assert heard.notes == ["resuming from the checkpoint of step 5"]
    assert losses(root / "interrupted") == losses(root / "plain")


def test_the_checkpoint_of_the_best_heldout_loss_outlives_the_run(inputs: dict[str, Artifact], root: Path) -> None:
    config = tiny_config(num_workers=1, eval_every_steps=3, checkpoint_every_steps=3, keep_best=1)
    run(config, inputs, str(root / "best"), context(root), launch=run_in_process)
    measured = {
        row["heldout_loss"]: row["step"] + 1
        for row in read_metrics(root / "best" / METRICS)
        if row.get("heldout_loss") is not None
    }
    store = CheckpointStore(str(root / "best" / "checkpoints"))
    assert store.steps() == [measured[min(measured)]]
    assert store.load(store.steps()[0], root / "best_loaded").state["heldout_loss"] == min(measured)


def test_checkpoint_of_another_job_is_refused_before_a_worker_starts(inputs: dict[str, Artifact], root: Path) -> None:
    (root / "local").mkdir()
    (root / "local" / "part").write_text("x")
    output = root / "of_another"
    state = {"tokens_fingerprint": inputs["tokens"].manifest.fingerprint, "model": '"7b" in fp32', "zero_stage": 1}
    CheckpointStore(str(output / "checkpoints")).save(5, root / "local", state=state)
    with pytest.raises(StageFailed, match=r'was of the model "7b" in fp32, and this job has {"hidden_size": 32'):
        run(tiny_config(num_workers=1), inputs, str(output), context(root), launch=never_launched)


def test_divergence_stops_the_run_with_advice(inputs: dict[str, Artifact], root: Path) -> None:
    config = tiny_config(num_workers=1, lr=1e38, gradient_clipping=None)
    with pytest.raises(StageFailed, match=r"training loss is nan at step \d+; divergence.not_finite: skip or rewind"):
        run(config, inputs, str(root / "diverged"), context(root), launch=run_in_process)


def fail_on_rank_one(worker: Worker, job: None) -> None:
    if worker.rank == 1:
        raise InputError("row 17 has no answer")
    worker.barrier()


@pytest.mark.usefixtures("local_ray")
def test_deliberate_error_of_a_worker_arrives_as_it_is_and_without_a_restart(root: Path) -> None:
    started = context(root)
    with pytest.raises(InputError, match="row 17 has no answer"):
        run_workers(fail_on_rank_one, None, WorkerGroup(num_workers=2, cpus=0.5, max_failures=2), started)
    log = (started.log_directory / "base-workers.log").read_text()
    assert "start 1 failed" in log
    assert "in fail_on_rank_one" in log
    assert "start 2" not in log


@dataclass(frozen=True)
class DyingJob:
    checkpoints: str
    last_step: int


def commit_a_step_and_die(worker: Worker, job: DyingJob) -> None:
    """A start that is killed; those up to `last_step` leave a checkpoint first."""
    store = CheckpointStore(job.checkpoints)
    step = max(store.steps(), default=0) + 1
    if step <= job.last_step:
        store.commit_rank(step, {}, rank=0)
        store.commit_step(step, world_size=1)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.soak
@pytest.mark.usefixtures("local_ray")
def test_only_failures_without_a_newer_checkpoint_use_up_max_failures(root: Path) -> None:
    started, store = context(root), CheckpointStore(str(root / "failures"))
    group = WorkerGroup(num_workers=1, cpus=0.5, max_failures=1)
    # Three deaths behind a new checkpoint each, and a fourth behind none.
    with pytest.raises(StageFailed, match=r"after 1 restarts .* without progress, 3 in all"):
        run_workers(
            commit_a_step_and_die, DyingJob(store.uri, last_step=3), group, started, committed_steps=store.steps
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 65}, "sequence_length is 65 and the model has 64 positions"),
        ({"model": {**MODEL, "vocab_size": 299}}, "vocab_size is 299 and the tokenizer has 300"),
        ({"model": {**MODEL, "hiden_size": 32}}, "keys that a 'llama' config does not know: hiden_size"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, r"deepspeed\.zero_optimization\.stage is 3"),
    ],
)
def test_bad_settings_are_refused_before_a_worker_starts(
    changes: dict[str, Any], message: str, inputs: dict[str, Artifact], root: Path
) -> None:
    config = tiny_config(num_workers=1, **changes)
    with pytest.raises(InputError, match=message):
        run(config, inputs, str(root / "refused"), context(root), launch=never_launched)


def test_shards_of_another_tokenizer_are_refused(inputs: dict[str, Artifact], root: Path) -> None:
    tokens = inputs["tokens"]
    foreign = Artifact(tokens.uri, tokens.manifest.__class__("tokenize", "tokens-2", {}, {"tokenizer": "tokenizer-2"}))
    with pytest.raises(InputError, match="were made with tokenizer tokenizer-2"):
        run(tiny_config(num_workers=1), {**inputs, "tokens": foreign}, str(root / "refused"), context(root))


@pytest.mark.parametrize("change", ["cut", "longer", "gone"])
def test_shards_changed_since_the_last_attempt_are_refused_before_a_worker_starts(
    change: str, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    def launch(*arguments: Any) -> Any:
        raise AssertionError("a worker was started")

    tokens = make_tokens(tmp_path / "tokens")
    shard = tmp_path / "tokens" / "shard-00001.arrow"
    content = shard.read_bytes()
    if change == "gone":
        shard.unlink()
    else:
        shard.write_bytes(content[:-64] if change == "cut" else content + bytes(64))
    found = "is missing" if change == "gone" else f"has {len(content) + (-64 if change == 'cut' else 64)} bytes"
    with pytest.raises(CorruptArtifact, match=rf"shard-00001\.arrow {found}.*tokens\.parquet says {len(content)}"):
        run(tiny_config(num_workers=1), {**inputs, "tokens": tokens}, str(tmp_path / "out"), context(tmp_path),
            launch=launch)  # fmt: skip


def test_best_fit_packing_is_planned_once_before_the_workers_start(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    config = tiny_config(num_workers=1, packing="best_fit", shuffle="windows", shuffle_window=16)
    job = PretrainJob(config, inputs["tokens"].uri, "tokens-1", inputs["tokenizer"].uri, None, str(tmp_path), seed=1)
    check_data(job, inputs["tokens"], inputs["tokenizer"], 300)
    (planned,) = tmp_path.glob("packing-*.npy")
    before = planned.stat().st_mtime_ns
    train, (heldout,) = open_training(job), open_heldout(job).values()
    assert planned.stat().st_mtime_ns == before
    assert isinstance(train, BestFitSampler)
    assert isinstance(heldout, TokenSampler)
    assert 0 < train.padding_fraction < 0.1
    batch = train.batch(np.arange(train.num_samples))
    assert (batch.labels_BT != IGNORE_INDEX).sum() == train.num_tokens - train.num_samples
